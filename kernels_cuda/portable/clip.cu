// x = min(max(x, -limit), limit) in place; NaN stays. Block: a row and a piece of its columns; thread: 16 bytes.
// Limited by bandwidth.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads) clip_kernel(T* x, int64_t stride, int64_t width, float limit) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= width) return;
  T* const place = x + blockIdx.x * stride + i;
  float values[kCount];
  load_floats(place, values);
#pragma unroll
  for (float& value : values) {
    if (value < -limit) value = -limit;
    if (value > limit) value = limit;
  }
  store_floats(place, values);
}

}  // namespace

void clip(const ClipArgs& args, Stream& stream) {
  const Tensor& x = args.x;
  if (x.size() == 0) return;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kCount = 16 / sizeof(T);
    const bool vectors = holds_vectors(x, kCount);
    launch("clip", vectors ? clip_kernel<T, kCount> : clip_kernel<T, 1>,
           row_grid(x.shape[0], x.shape[1], vectors ? kCount : 1), kRowThreads, 0, as_gpu(stream), x.as<T>(),
           x.strides[0], x.shape[1], args.limit);
  });
}

}  // namespace quire::gpu
