#include "backend/cpu/kernels.h"
#include "backend/cpu/rope_heads.h"

namespace quire::cpu::portable {
namespace {

void rotate(const float* x, float* out, const float* cos, const float* sin, int64_t pairs, RopeLayout layout) {
  const bool half = layout == RopeLayout::kHalf;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t a = half ? i : 2 * i;
    const int64_t b = half ? i + pairs : 2 * i + 1;
    const float first = x[a];
    const float second = x[b];
    out[a] = first * cos[i] - second * sin[i];
    out[b] = second * cos[i] + first * sin[i];
  }
}

}  // namespace

void rope(const RopeArgs& args, Stream& stream) {
  const int64_t pairs = args.cos.shape[1];
  for_each_head(args, stream,
                [&](const HeadToTurn& head) { rotate(head.x, head.out, head.cos, head.sin, pairs, args.layout); });
}

}  // namespace quire::cpu::portable
