#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

template <typename T>
void embed_tokens(const EmbedArgs& args, int64_t begin, int64_t end) {
  for (int64_t token = begin; token < end; ++token) {
    const T* const row = args.table.as<const T>() + int64_t{args.ids[token] + args.offset} * args.table.strides[0];
    float* const out = args.out.as<float>() + token * args.out.strides[0];
    for (int64_t i = 0; i < args.out.shape[1]; ++i) {
      const float value = to_float(row[i]) * args.scale;
      out[i] = args.accumulate ? out[i] + value : value;
    }
  }
}

}  // namespace

void embed(const EmbedArgs& args, Stream& stream) {
  split_items(stream, args.out.shape[0], args.out.shape[1], [&](int64_t begin, int64_t end) {
    switch (args.table.dtype) {
      case DType::kBFloat16: return embed_tokens<BFloat16>(args, begin, end);
      case DType::kFloat16: return embed_tokens<Float16>(args, begin, end);
      default: return embed_tokens<float>(args, begin, end);
    }
  });
}

}  // namespace quire::cpu::portable
