#include "runtime/kv_memory.h"

#include <cstddef>

namespace quire {
namespace {

int64_t block_bytes_of(const Attention& attention, const Backend& backend, DType dtype, int32_t block_size) {
  return backend.kv_block_bytes(dtype, block_size, attention.cache_heads(), attention.cache_key_dim(),
                                attention.cache_value_dim());
}

}  // namespace

int64_t kv_bytes_per_block(const ModelSpec& spec, const Backend& backend, DType dtype, int32_t block_size) {
  int64_t bytes = 0;
  for (const Layer& layer : spec.layers) bytes += block_bytes_of(layer.attention, backend, dtype, block_size);
  return bytes;
}

KvMemory::KvMemory(const ModelSpec& spec, Backend& backend, DType dtype, int32_t block_size, int32_t num_blocks)
    : memory_(
          backend.allocate(kv_bytes_per_block(spec, backend, dtype, block_size) * num_blocks, MemoryKind::kKvCache)) {
  auto* pages = static_cast<std::byte*>(memory_.data());
  layers_.reserve(spec.layers.size());
  for (const Layer& layer : spec.layers) {
    const Attention& attention = layer.attention;
    layers_.push_back({.data = pages,
                       .dtype = dtype,
                       .num_blocks = num_blocks,
                       .block_bytes = block_bytes_of(attention, backend, dtype, block_size),
                       .block_size = block_size,
                       .num_kv_heads = attention.cache_heads(),
                       .head_dim = attention.cache_key_dim(),
                       .v_head_dim = attention.cache_value_dim()});
    pages += layers_.back().block_bytes * num_blocks;
  }
}

}  // namespace quire
