#include "backend/cpu/kernels.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

void rotate(float* x, const float* cos, const float* sin, int64_t pairs, RopeLayout layout) {
  const bool half = layout == RopeLayout::kHalf;
  for (int64_t i = 0; i < pairs; ++i) {
    float& first = x[half ? i : 2 * i];
    float& second = x[half ? i + pairs : 2 * i + 1];
    const float real = first * cos[i] - second * sin[i];
    const float imaginary = second * cos[i] + first * sin[i];
    first = real;
    second = imaginary;
  }
}

}  // namespace

void rope(const RopeArgs& args, Stream& stream) {
  const int64_t pairs = args.cos.shape[1];
  split_items(stream, args.x.shape[0], args.x.shape[1] * args.x.shape[2], [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const float* const cos = args.cos.as<const float>() + args.rows[token] * args.cos.strides[0];
      const float* const sin = args.sin.as<const float>() + args.rows[token] * args.sin.strides[0];
      for (int64_t head = 0; head < args.x.shape[1]; ++head) {
        float* const x = args.x.as<float>() + token * args.x.strides[0] + head * args.x.strides[1];
        rotate(x, cos, sin, pairs, args.layout);
      }
    }
  });
}

}  // namespace quire::cpu::portable
