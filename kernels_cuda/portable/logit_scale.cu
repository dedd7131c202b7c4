// x = softcap * tanh(x * scale / softcap), or x * scale, in place over float32 logits. Block: a row and a piece of its
// columns; thread: 16 bytes. Limited by bandwidth.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

template <int kCount>
__global__ void __launch_bounds__(kRowThreads)
    logit_scale_kernel(float* x, int64_t stride, int64_t width, float scale, float softcap) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= width) return;
  float* const place = x + blockIdx.x * stride + i;
  float values[kCount];
  load_floats(place, values);
#pragma unroll
  for (float& value : values) {
    value *= scale;
    if (softcap > 0.0f) value = softcap * tanhf(value / softcap);
  }
  store_floats(place, values);
}

}  // namespace

void logit_scale(const LogitScaleArgs& args, Stream& stream) {
  const Tensor& x = args.x;
  if (x.size() == 0) return;
  const bool vectors = holds_vectors(x, 4);
  launch("logit_scale", vectors ? logit_scale_kernel<4> : logit_scale_kernel<1>,
         row_grid(x.shape[0], x.shape[1], vectors ? 4 : 1), kRowThreads, 0, as_gpu(stream), x.as<float>(), x.strides[0],
         x.shape[1], args.scale, args.softcap);
}

}  // namespace quire::gpu
