#pragma once

#include <cstdint>
#include <span>

#include "backend/kv_cache.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// Store keys and values of this step's tokens at batch.slots, rounded to the cache's type.
struct KvWriteArgs {
  Tensor k;  ///< [T, G, K], rows may be strided
  Tensor v;  ///< [T, G, v_head_dim], type of k, rows may be strided
  KvLayer kv;
  const int64_t* slots = nullptr;  ///< [T]
};
using KvWriteFn = void (*)(const KvWriteArgs&, Stream&);

/// Copy whole blocks of every given layer: within it (copy-on-write of shared blocks), or to its like in memory of
/// Backend::allocate_host() or from there (swapping), wherever they lie as fast as one piece would be copied.
struct CopyBlocksArgs {
  std::span<const KvLayer> layers;
  std::span<const int32_t> from;  ///< block numbers, in host memory
  std::span<const int32_t> to;    ///< none twice, and none of those that are copied from in the same layers
  /// Where the blocks go, layer by layer with pages of the same size; empty: to `layers` themselves.
  std::span<const KvLayer> to_layers = {};
};
using CopyBlocksFn = void (*)(const CopyBlocksArgs&, Stream&);

}  // namespace quire
