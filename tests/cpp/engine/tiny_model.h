#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

namespace quire {

/// A llama of a few thousand random parameters, and what tests change of it.
struct TinyModel {
  int32_t vocab = 96;
  int32_t width = 32;
  int32_t layers = 2;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t ffn = 48;
  int32_t max_positions = 128;
  uint32_t seed = 1;
  /// Token whose embedding is NaN in one component: whoever reads it has no finite logits any more.
  std::optional<int32_t> nan_token;
};

/// A folder with config.json, generation_config.json, model.safetensors and tokenizer.json, removed when it goes.
///
/// Token ids 0 to 94 stand for the printable ASCII characters from ' ' on, one each; 95 is "<end>", special and the end
/// of text.
class TinyModelFolder {
 public:
  explicit TinyModelFolder(const TinyModel& model = {});
  ~TinyModelFolder();
  TinyModelFolder(const TinyModelFolder&) = delete;
  TinyModelFolder& operator=(const TinyModelFolder&) = delete;

  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

constexpr int32_t kTinyEndToken = 95;

}  // namespace quire
