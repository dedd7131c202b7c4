#pragma once

#include <cstddef>
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
  /// Raises: kNotFound with no weights in the folder or a shard missing; kInvalidArgument naming the file, the tensor
  /// and what is wrong (truncated, overlapping, out of the file, shape against size, an index that does not fit its
  /// shards, ...); kUnsupported for an element type or a rank that there is no use for.
  static Checkpoint open(const std::string& folder);

  /// The file, or the index of several, that was opened: a name in the folder, for messages.
  const std::string& name() const { return name_; }

  /// Tensor by name, or null. The view points into the mapped file; it may be strided (from a .bin) and need not be
  /// aligned for its type.
  const Tensor* find(const std::string& name) const;

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }

  /// Name of the file that holds a tensor, for messages.
  const std::string& file_of(const std::string& name) const;

  /// Raise kInvalidArgument if the file of a tensor has become shorter since it was opened. To be called before reading
  /// the tensor: a page that is no longer in the file cannot be read without a bus error.
  void check_unchanged(const std::string& name) const;

  /// Bytes that a tensor takes in its file.
  size_t stored_bytes(const std::string& name) const { return extent(name).bytes; }

  /// Tell the system that `bytes` of a tensor, from `first` on, are needed soon; or bring them in and return when they
  /// are there.
  void will_need(const std::string& name, size_t first, size_t bytes) const;
  void bring_in(const std::string& name, size_t first, size_t bytes) const;

  /// Drop the pages of a tensor that has been read from memory; its contents stay in the file.
  void drop(const std::string& name) const;

 private:
  friend class CheckpointBuilder;
  struct File {
    MappedFile mapping;
    std::string name;
  };
  /// Where in its file a tensor lies.
  struct Extent {
    size_t offset = 0;
    size_t bytes = 0;
  };
  Extent extent(const std::string& name) const;
  const File& holder(const std::string& name) const { return *files_[file_index_.at(name)]; }

  std::string name_;
  std::vector<std::unique_ptr<File>> files_;
  std::map<std::string, Tensor> tensors_;
  std::map<std::string, size_t> file_index_;
};

}  // namespace quire
