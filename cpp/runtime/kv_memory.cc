#include "runtime/kv_memory.h"

#include <cstddef>

namespace quire {
namespace {

/// What a page of the layer holds.
KvLayer kv_layer_of(const Attention& attention, DType dtype, int32_t block_size) {
  return {.dtype = dtype,
          .block_size = block_size,
          .num_kv_heads = attention.cache_heads(),
          .head_dim = attention.cache_key_dim(),
          .v_head_dim = attention.cache_value_dim(),
          .values_in_keys = attention.latent.has_value()};
}

int64_t block_bytes_of(const Attention& attention, const Backend& backend, DType dtype, int32_t block_size) {
  return backend.kv_block_bytes(kv_layer_of(attention, dtype, block_size));
}

Buffer allocate(Backend& backend, KvPlace place, int64_t bytes) {
  const auto size = static_cast<size_t>(bytes);
  return place == KvPlace::kHost ? backend.allocate_host(size) : backend.allocate(size, MemoryKind::kKvCache);
}

}  // namespace

int64_t kv_bytes_per_block(const ModelSpec& spec, const Backend& backend, DType dtype, int32_t block_size) {
  int64_t bytes = 0;
  for (const Layer& layer : spec.layers) bytes += block_bytes_of(layer.attention, backend, dtype, block_size);
  return bytes;
}

KvMemory::KvMemory(const ModelSpec& spec, Backend& backend, KvPlace place, DType dtype, int32_t block_size,
                   int32_t num_blocks)
    : memory_(allocate(backend, place, kv_bytes_per_block(spec, backend, dtype, block_size) * num_blocks)) {
  auto* pages = static_cast<std::byte*>(memory_.data());
  layers_.reserve(spec.layers.size());
  for (const Layer& layer : spec.layers) {
    const Attention& attention = layer.attention;
    KvLayer& kv = layers_.emplace_back(kv_layer_of(attention, dtype, block_size));
    kv.data = pages;
    kv.num_blocks = num_blocks;
    kv.block_bytes = block_bytes_of(attention, backend, dtype, block_size);
    pages += kv.block_bytes * num_blocks;
  }
}

}  // namespace quire
