#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "spec/spec.h"

namespace quire {

/// Bytes of one KV block over all layers of a model.
int64_t kv_bytes_per_block(const ModelSpec& spec, const Backend& backend, DType dtype, int32_t block_size);

/// Where paged keys and values lie.
enum class KvPlace {
  kDevice,  ///< where attention reads them
  kHost,    ///< where those of swapped-out sequences wait
};

/// The paged keys and values of all layers, in one piece of memory: the pages of the first layer, then the second's.
class KvMemory {
 public:
  /// Raises: kOutOfMemory.
  KvMemory(const ModelSpec& spec, Backend& backend, KvPlace place, DType dtype, int32_t block_size, int32_t num_blocks);

  std::span<const KvLayer> layers() const { return layers_; }

 private:
  Buffer memory_;
  std::vector<KvLayer> layers_;
};

}  // namespace quire
