// out[r] = x[rows[r]], float32. Block: a row and a piece of its columns; thread: 16 bytes. Limited by latency.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

template <int kCount>
__global__ void __launch_bounds__(kRowThreads) gather_kernel(const float* x, int64_t x_stride, const int32_t* rows,
                                                             float* out, int64_t out_stride, int64_t width) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= width) return;
  float values[kCount];
  load_floats(x + rows[blockIdx.x] * x_stride + i, values);
  store_floats(out + blockIdx.x * out_stride + i, values);
}

}  // namespace

void gather(const GatherArgs& args, Stream& stream) {
  const Tensor& out = args.out;
  if (out.size() == 0) return;
  const bool vectors = hold_vectors({args.x, out}, 4);
  launch("gather", vectors ? gather_kernel<4> : gather_kernel<1>, row_grid(out.shape[0], out.shape[1], vectors ? 4 : 1),
         kRowThreads, 0, as_gpu(stream), args.x.as<const float>(), args.x.strides[0], args.rows, out.as<float>(),
         out.strides[0], out.shape[1]);
}

}  // namespace quire::gpu
