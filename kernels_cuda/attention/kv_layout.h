// The inside of a KV page, in chunks of 16 bytes. For each kv head in turn:
//   keys    B rows (one per token) of head_dim elements;
//   values  B rows of v_head_dim elements; not there if the values are the beginning of the keys.
// Rows are rounded up to whole chunks (kv_write fills up with zeros) and cut into columns of 8 chunks, the rest into
// columns of 4, 2 and 1. A column is stored row by row, the chunks of a row in an order that turns with the row: eight
// rows of one chunk then lie in eight different banks of shared memory, so that a page is copied there as it is, in a
// single run of memory per head, and read by ldmatrix without conflicts. (It is the 128-byte swizzle of wgmma, too.)
#pragma once

#include <cstdint>

#include "backend/kv_cache.h"
#include "core/dtype.h"

namespace quire::gpu {

constexpr int32_t kChunkBytes = 16;

/// In chunks.
struct KvLayout {
  int32_t block_size = 0;
  int32_t key_chunks = 0;    ///< of a row
  int32_t value_chunks = 0;  ///< of a row of what the values are in: the keys' if they are a part of these
  int32_t values = 0;        ///< from a head's keys to its values
  int32_t head_chunks = 0;   ///< from head to head
};

inline KvLayout kv_layout(const KvLayer& kv) {
  const auto chunks = [&kv](int64_t elements) {
    return static_cast<int32_t>((elements * dtype_bytes(kv.dtype) + kChunkBytes - 1) / kChunkBytes);
  };
  KvLayout layout;
  layout.block_size = kv.block_size;
  layout.key_chunks = chunks(kv.head_dim);
  layout.value_chunks = kv.values_in_keys ? layout.key_chunks : chunks(kv.v_head_dim);
  layout.values = kv.values_in_keys ? 0 : layout.key_chunks * kv.block_size;
  layout.head_chunks = layout.values + layout.value_chunks * kv.block_size;
  return layout;
}

}  // namespace quire::gpu
