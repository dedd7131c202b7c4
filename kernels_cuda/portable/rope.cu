// (a, b) -> (a cos - b sin, b cos + a sin) for the pairs of the first R components of every head; the others are copied
// if the result goes elsewhere. Block: a token and a piece of its work; thread: 4 pairs of a head, as two runs of 4
// elements, or 4 of the other components. Limited by bandwidth. Source: Su et al., arXiv:2104.09864.
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

struct RopeHeads {
  const void* x;
  int64_t x_stride, x_head_stride;
  void* out;
  int64_t out_stride, out_head_stride;
  const int32_t* rows;
  const float* cos;
  const float* sin;
  int64_t cos_stride, sin_stride;
  int32_t num_heads;
  int32_t pairs;   ///< R / 2
  int32_t others;  ///< components to copy
  bool interleaved;
};

__device__ inline void turn(float& a, float& b, float cos, float sin) {
  const float first = a;
  a = first * cos - b * sin;
  b = b * cos + first * sin;
}

/// The kCount pairs from `pair` on.
template <typename T, int kCount>
__device__ void turn_pairs(const RopeHeads& heads, const T* x, T* out, int32_t pair) {
  const int64_t row = heads.rows[blockIdx.x];
  float cos[kCount], sin[kCount], run[2][kCount];
  load_floats(heads.cos + row * heads.cos_stride + pair, cos);
  load_floats(heads.sin + row * heads.sin_stride + pair, sin);
  const int32_t first = heads.interleaved ? 2 * pair : pair;
  const int32_t second = heads.interleaved ? first + kCount : first + heads.pairs;
  load_floats(x + first, run[0]);
  load_floats(x + second, run[1]);
  if (heads.interleaved) {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      turn(run[2 * j / kCount][2 * j % kCount], run[(2 * j + 1) / kCount][(2 * j + 1) % kCount], cos[j], sin[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) turn(run[0][j], run[1][j], cos[j], sin[j]);
  }
  store_floats(out + first, run[0]);
  store_floats(out + second, run[1]);
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads) rope_kernel(RopeHeads heads) {
  let_next_start();
  wait_for_previous();
  const int32_t turns = heads.pairs / kCount;
  const int32_t per_head = turns + heads.others / kCount;
  const int32_t item = row_element<1>();
  const int32_t head = item / per_head;
  if (head >= heads.num_heads) return;
  const T* const x = static_cast<const T*>(heads.x) + blockIdx.x * heads.x_stride + head * heads.x_head_stride;
  T* const out = static_cast<T*>(heads.out) + blockIdx.x * heads.out_stride + head * heads.out_head_stride;
  const int32_t step = item % per_head;
  if (step < turns) return turn_pairs<T, kCount>(heads, x, out, step * kCount);
  const int32_t i = 2 * heads.pairs + (step - turns) * kCount;
  float values[kCount];
  load_floats(x + i, values);
  store_floats(out + i, values);
}

}  // namespace

void rope(const RopeArgs& args, Stream& stream) {
  const Tensor& x = args.x;
  if (x.size() == 0) return;
  const int64_t pairs = args.cos.shape[1];
  const int64_t others = args.out.data == x.data ? 0 : x.shape[2] - 2 * pairs;
  if (pairs + others == 0) return;
  const RopeHeads heads{.x = x.data,
                        .x_stride = x.strides[0],
                        .x_head_stride = x.strides[1],
                        .out = args.out.data,
                        .out_stride = args.out.strides[0],
                        .out_head_stride = args.out.strides[1],
                        .rows = args.rows,
                        .cos = args.cos.as<const float>(),
                        .sin = args.sin.as<const float>(),
                        .cos_stride = args.cos.strides[0],
                        .sin_stride = args.sin.strides[0],
                        .num_heads = static_cast<int32_t>(x.shape[1]),
                        .pairs = static_cast<int32_t>(pairs),
                        .others = static_cast<int32_t>(others),
                        .interleaved = args.layout == RopeLayout::kInterleaved};
  const bool vectors = hold_vectors({x, args.out, args.cos, args.sin}, 4);
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    const int64_t items = x.shape[1] * (pairs + others) / (vectors ? 4 : 1);
    launch("rope", vectors ? rope_kernel<T, 4> : rope_kernel<T, 1>, row_grid(x.shape[0], items, 1), kRowThreads, 0,
           as_gpu(stream), heads);
  });
}

}  // namespace quire::gpu
