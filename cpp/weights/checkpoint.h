#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "core/tensor.h"

namespace quire {

/// Named tensors in files, memory-mapped: *.safetensors (one, or sharded with an index) or pytorch_model*.bin.
class Checkpoint {
 public:
  /// Find and open the weights of a folder. Safetensors are preferred where both are there.
  /// Raises: kNotFound with no weights in the folder; kInvalidArgument naming the file, the tensor and what is wrong
  /// (truncated, overlapping, out of the file, shape against size, an index that names an absent shard, ...).
  static Checkpoint open(const std::string& folder);

  /// Tensor by name, or null. The view points into the mapped file; it may be strided (from a .bin).
  const Tensor* find(const std::string& name) const;

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  /// Name of the file that holds a tensor, for messages.
  const std::string& file_of(const std::string& name) const;

  /// Drop the pages of a tensor that has been read from memory; its contents stay in the file.
  void drop(const std::string& name) const noexcept;

 private:
  friend class CheckpointBuilder;
  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, size_t> file_index_;
};

}  // namespace quire
