#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "core/temporary_folder.h"

/// Small model folders made by hand, whole or broken.
namespace quire {

/// One tensor of a .safetensors file; shape and type as the header shall say, whatever the data is.
struct FileTensor {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;
};

/// A .safetensors file of the tensors, one behind the other. `padding` spaces end the header: where its size is no
/// multiple of 8, no tensor is aligned.
std::string safetensors_bytes(const std::vector<FileTensor>& tensors, int padding = 0);

/// The same from a header of any text.
std::string safetensors_bytes(std::string_view header, std::string_view data);

/// A zip file of records as torch.save writes it, but for the checksums, which are zero.
struct ZipOptions {
  uint16_t method = 0;  ///< 0: stored
  bool zip64 = false;   ///< sizes and offsets in the fields for large files
};
std::string zip_bytes(const std::vector<std::pair<std::string, std::string>>& records, const ZipOptions& options = {});

/// The value at an index of a tensor in a tiny model: small multiples of 1/8, exact in every type.
float tiny_value(std::string_view name, int64_t index);

/// Floats as stored elements.
std::string encode(const std::vector<float>& values, DType dtype);

/// A tensor filled with tiny_value.
FileTensor tiny_tensor(const std::string& name, std::vector<int64_t> shape, DType dtype);

/// The shape of all tiny models: 10 tokens, width 8, 2 heads of 4, ffn of 12, 2 layers; Llama has 1 kv head.
constexpr int64_t kTinyVocab = 10;
constexpr int64_t kTinyWidth = 8;
constexpr int64_t kTinyFfn = 12;
constexpr int64_t kTinyLayers = 2;
constexpr int64_t kTinyPositions = 16;

/// Fields of config.json, each with its JSON text.
using ConfigFields = std::map<std::string, std::string>;
std::string config_text(const ConfigFields& fields);

ConfigFields tiny_llama_config();
std::vector<FileTensor> tiny_llama_tensors(DType dtype);
ConfigFields tiny_gpt2_config();
std::vector<FileTensor> tiny_gpt2_tensors(DType dtype, const std::string& prefix);

/// Write config.json and model.safetensors.
void write_model(const TemporaryFolder& folder, const ConfigFields& config, const std::vector<FileTensor>& tensors,
                 int padding = 0);

}  // namespace quire
