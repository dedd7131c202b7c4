#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

/// First component of a token's row, and the distance to the next.
template <typename T>
struct Row {
  const T* first;
  int64_t stride;
};

template <typename T>
Row<T> row_of(const EmbedArgs& args, int64_t index) {
  if (args.packed == nullptr) return {args.table.as<const T>() + index * args.table.strides[0], 1};
  const T* const panel =
      static_cast<const T*>(args.packed->data.data()) + index / kPanelColumns * args.packed->k * kPanelColumns;
  return {panel + index % kPanelColumns, kPanelColumns};
}

template <typename T>
void embed_tokens(const EmbedArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const Row<T> row = row_of<T>(args, int64_t{args.ids[token]} + args.offset);
    float* const out = args.out.as<float>() + token * args.out.strides[0];
    for (int64_t i = 0; i < args.out.shape[1]; ++i) {
      const float value = to_float(row.first[i * row.stride]) * args.scale;
      out[i] = args.accumulate ? out[i] + value : value;
    }
  }
}

}  // namespace

void embed(const EmbedArgs& args, Stream& stream) {
  const DType dtype = args.packed == nullptr ? args.table.dtype : args.packed->dtype;
  split_items(stream, args.out.shape[0], args.out.shape[1], [&](int64_t begin, int64_t end) {
    switch (dtype) {
      case DType::kBFloat16: return embed_tokens<BFloat16>(args, begin, end);
      case DType::kFloat16: return embed_tokens<Float16>(args, begin, end);
      default: return embed_tokens<float>(args, begin, end);
    }
  });
}

}  // namespace quire::cpu::portable
