#include <cmath>

#include "backend/cpu/add_factor.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/matrix_pieces.h"

namespace quire::cpu::portable {

void add(const AddArgs& args, Stream& stream) {
  for_each_piece(stream, args.out.shape[0], args.out.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    const float factor = add_factor(args, row);
    const float* const x = args.x.as<const float>() + row * args.x.strides[0];
    float* const out = args.out.as<float>() + row * args.out.strides[0];
    for (int64_t i = begin; i < end; ++i) out[i] = std::fma(factor, x[i], out[i]);
  });
}

void clip(const ClipArgs& args, Stream& stream) {
  for_each_piece(stream, args.x.shape[0], args.x.shape[1], [&](int64_t row, int64_t begin, int64_t end) {
    float* const x = args.x.as<float>() + row * args.x.strides[0];
    for (int64_t i = begin; i < end; ++i) {
      // Written so that NaN stays NaN.
      if (x[i] < -args.limit) x[i] = -args.limit;
      if (x[i] > args.limit) x[i] = args.limit;
    }
  });
}

}  // namespace quire::cpu::portable
