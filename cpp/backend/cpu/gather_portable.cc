#include <cmath>
#include <cstring>

#include "backend/cpu/kernels.h"
#include "backend/cpu/matrix_pieces.h"

namespace quire::cpu::portable {

void gather(const GatherArgs& args, Stream& stream) {
  const int64_t width = args.out.shape[1];
  split_items(stream, args.out.shape[0], width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      std::memcpy(args.out.as<float>() + row * args.out.strides[0],
                  args.x.as<const float>() + args.rows[row] * args.x.strides[0],
                  static_cast<size_t>(width) * sizeof(float));
    }
  });
}

void logit_scale(const LogitScaleArgs& args, Stream& stream) {
  for_each_piece(stream, args.x.shape[0], args.x.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    float* const x = args.x.as<float>() + row * args.x.strides[0];
    for (int64_t i = begin; i < end; ++i) {
      x[i] *= args.scale;
      if (args.softcap > 0.0f) x[i] = args.softcap * std::tanh(x[i] / args.softcap);
    }
  });
}

void resolve(const ResolveArgs& args, Stream&) {
  for (int32_t i = 0; i < *args.count; ++i) {
    if (args.ids[i] < 0) args.ids[i] = args.tokens[-1 - args.ids[i]].token;
  }
}

}  // namespace quire::cpu::portable
