// out[t] += scale * sigmoid(gate[t]) * x[t], out in float32. Block: a row and 1024 of its columns; thread: 4 elements.
// Limited by bandwidth.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

struct AddRows {
  const void* x;
  int64_t x_stride;
  const float* gate;
  int64_t gate_stride;
  float scale;
  float* out;
  int64_t out_stride;
  int64_t width;
};

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads) add_kernel(AddRows rows) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= rows.width) return;
  const int64_t row = blockIdx.x;
  const float factor =
      rows.gate == nullptr ? rows.scale : rows.scale / (1.0f + expf(-rows.gate[row * rows.gate_stride]));
  float x[kCount], out[kCount];
  load_floats(static_cast<const T*>(rows.x) + row * rows.x_stride + i, x);
  float* const place = rows.out + row * rows.out_stride + i;
  load_floats(place, out);
#pragma unroll
  for (int j = 0; j < kCount; ++j) out[j] = fmaf(factor, x[j], out[j]);
  store_floats(place, out);
}

}  // namespace

void add(const AddArgs& args, Stream& stream) {
  const int64_t num_rows = args.out.shape[0];
  const AddRows rows{.x = args.x.data,
                     .x_stride = args.x.strides[0],
                     .gate = args.gate ? args.gate.as<const float>() : nullptr,
                     .gate_stride = args.gate.strides[0],
                     .scale = args.scale,
                     .out = args.out.as<float>(),
                     .out_stride = args.out.strides[0],
                     .width = args.out.shape[1]};
  if (num_rows == 0 || rows.width == 0) return;
  const bool vectors = hold_vectors({args.x, args.out}, 4);
  with_type(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    launch("add", vectors ? add_kernel<T, 4> : add_kernel<T, 1>, row_grid(num_rows, rows.width, vectors ? 4 : 1),
           kRowThreads, 0, as_gpu(stream), rows);
  });
}

}  // namespace quire::gpu
