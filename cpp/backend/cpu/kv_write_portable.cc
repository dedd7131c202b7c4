#include <cstring>
#include <type_traits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_layout.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

template <typename T>
T rounded(float value) {
  if constexpr (std::is_same_v<T, BFloat16>) return to_bfloat16(value);
  if constexpr (std::is_same_v<T, Float16>) return to_float16(value);
  if constexpr (std::is_same_v<T, float>) return value;
}

template <typename T>
void write_tokens(const KvWriteArgs& args, int64_t begin, int64_t end) {
  const KvLayout layout = kv_layout(args.kv);
  for (int64_t token = begin; token < end; ++token) {
    if (args.slots[token] < 0) continue;
    T* const page = kv_page<T>(args.kv, args.slots[token] / layout.block_size);
    const int64_t slot = args.slots[token] % layout.block_size;
    for (int64_t head = 0; head < args.kv.num_kv_heads; ++head) {
      const float* const k = args.k.as<const float>() + token * args.k.strides[0] + head * args.k.strides[1];
      const float* const v = args.v.as<const float>() + token * args.v.strides[0] + head * args.v.strides[1];
      for (int64_t i = 0; i < args.kv.head_dim; ++i) page[layout.key(head, i, slot)] = rounded<T>(k[i]);
      for (int64_t i = 0; i < args.kv.v_head_dim; ++i) page[layout.value(head, slot) + i] = rounded<T>(v[i]);
    }
  }
}

}  // namespace

void kv_write(const KvWriteArgs& args, Stream& stream) {
  const int64_t token_elements = int64_t{args.kv.num_kv_heads} * (args.kv.head_dim + args.kv.v_head_dim);
  split_items(stream, args.k.shape[0], token_elements, [&](int64_t begin, int64_t end) {
    switch (args.kv.dtype) {
      case DType::kBFloat16: return write_tokens<BFloat16>(args, begin, end);
      case DType::kFloat16: return write_tokens<Float16>(args, begin, end);
      default: return write_tokens<float>(args, begin, end);
    }
  });
}

void copy_blocks(const CopyBlocksArgs& args, Stream& stream) {
  if (args.layers.empty()) return;
  const int64_t num_pairs = static_cast<int64_t>(args.from.size());
  const int64_t count = num_pairs * static_cast<int64_t>(args.layers.size());
  const int64_t block_floats = args.layers[0].block_bytes / static_cast<int64_t>(sizeof(float));
  const auto to_layers = args.to_layers.empty() ? args.layers : args.to_layers;
  split_items(stream, count, block_floats, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const auto layer = static_cast<size_t>(item / num_pairs);
      const auto pair = static_cast<size_t>(item % num_pairs);
      std::memcpy(kv_page<std::byte>(to_layers[layer], args.to[pair]),
                  kv_page<std::byte>(args.layers[layer], args.from[pair]),
                  static_cast<size_t>(args.layers[layer].block_bytes));
    }
  });
}

}  // namespace quire::cpu::portable
