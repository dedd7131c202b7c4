#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/kv_cache.h"

namespace quire::cpu {

/// The inside of a KV page, the same for every instruction set. For each kv head in turn:
///   keys   [K][B]   one row per component, so that vector lanes run over tokens when scores are formed;
///   values [B][Vp]  one row per token, so that lanes run over components when values are summed.
/// Vp is v_head_dim rounded up to 16 elements: a whole vector may be read at the end of any row. What the padding holds
/// is never used. Every head's part starts at a multiple of 64 bytes of the page.
struct KvLayout {
  int64_t key_elements = 0;   ///< of one head, padding to 64 bytes included
  int64_t head_elements = 0;  ///< keys and values of one head
  int64_t value_stride = 0;   ///< Vp
  int64_t block_size = 0;     ///< B

  /// Offsets in elements from the page's start.
  int64_t key(int64_t head, int64_t component, int64_t slot) const {
    return head * head_elements + component * block_size + slot;
  }
  int64_t value(int64_t head, int64_t slot) const { return head * head_elements + key_elements + slot * value_stride; }
};

inline KvLayout kv_layout(int32_t block_size, int32_t head_dim, int32_t v_head_dim) {
  constexpr int64_t kAlign = 32;  // elements: 64 bytes of the smallest type
  const auto round_up = [](int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; };
  KvLayout layout;
  layout.block_size = block_size;
  layout.value_stride = round_up(v_head_dim, 16);
  layout.key_elements = round_up(int64_t{head_dim} * block_size, kAlign);
  layout.head_elements = layout.key_elements + round_up(layout.value_stride * block_size, kAlign);
  return layout;
}

inline KvLayout kv_layout(const KvLayer& kv) {
  return kv_layout(kv.block_size, kv.head_dim, kv.v_head_dim);
}

/// Bytes of one page of one layer: what Backend::kv_block_bytes answers.
inline int64_t kv_page_bytes(DType dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_dim,
                             int32_t v_head_dim) {
  return kv_layout(block_size, head_dim, v_head_dim).head_elements * num_kv_heads * dtype_bytes(dtype);
}

template <typename T>
T* kv_page(const KvLayer& kv, int64_t block) {
  return reinterpret_cast<T*>(static_cast<std::byte*>(kv.data) + block * kv.block_bytes);
}

}  // namespace quire::cpu
