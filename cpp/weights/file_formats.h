#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor.h"

/// Readers of weight files. They look at bytes and hand back views into them; nothing is copied or run.
namespace quire {

struct NamedTensor {
  std::string name;
  Tensor tensor;
};

/// The tensors of a .safetensors file. `where` (the file's name) opens the messages.
///
/// As strict as the format's own library: header of at most 100 MB; the tensors' ranges fill the data without gap or
/// overlap; shape times type is the size of the range; no name twice.
/// Raises: kInvalidArgument; kUnsupported for an element type or a rank above Tensor::kMaxRank.
std::vector<NamedTensor> read_safetensors(std::span<const std::byte> bytes, std::string_view where);

/// The tensors of a pytorch_model.bin that torch.save wrote (version 1.6 or later): a zip of stored records, with a
/// pickle that names the tensors. The pickle is read by an interpreter that knows tensors and dictionaries only.
/// Raises: kInvalidArgument, for a pickle that names anything else too, and for the format of older versions.
std::vector<NamedTensor> read_pytorch(std::span<const std::byte> bytes, std::string_view where);

}  // namespace quire
