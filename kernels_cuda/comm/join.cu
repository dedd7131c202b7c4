// x[i] := sum over r of parts[r, i] (or add_to[i] += scale * that sum), and out[i, c] := what the rank has to which
// column c belongs. Thread: an element. Limited by bandwidth, after a library that takes longer.
#include "kernels_cuda/comm/join.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

template <typename T>
__global__ void __launch_bounds__(kRowThreads) sum_parts_kernel(GatheredParts gathered) {
  let_next_start();
  wait_for_previous();
  const int64_t i = int64_t{blockIdx.x} * kRowThreads + threadIdx.x;
  if (i >= gathered.count) return;
  const T* const parts = static_cast<const T*>(gathered.parts) + i;
  float sum = to_float(parts[0]);
  for (int r = 1; r < gathered.num_ranks; ++r) sum += to_float(parts[r * gathered.count]);
  if (gathered.add_to != nullptr) {
    gathered.add_to[i] = fmaf(gathered.scale, sum, gathered.add_to[i]);
  } else {
    static_cast<T*>(gathered.x)[i] = from_float<T>(sum);
  }
}

__global__ void __launch_bounds__(kRowThreads) join_columns_kernel(GatheredColumns gathered) {
  let_next_start();
  wait_for_previous();
  const int32_t column = row_element<1>();
  if (column >= gathered.columns) return;
  const int64_t row = blockIdx.x, rank = column / gathered.each, first = rank * gathered.each;
  const int64_t width = min(gathered.each, gathered.columns - first);
  const float* const part = gathered.parts + rank * gathered.rows * gathered.each;
  gathered.out[row * gathered.out_stride + column] = part[row * width + column - first];
}

}  // namespace

void sum_parts(DType dtype, const GatheredParts& gathered, GpuStream& stream) {
  const auto blocks = static_cast<unsigned>((gathered.count + kRowThreads - 1) / kRowThreads);
  with_type(dtype, [&](auto type) {
    launch("all_reduce", sum_parts_kernel<decltype(type)>, blocks, kRowThreads, 0, stream, gathered);
  });
}

void join_columns(const GatheredColumns& gathered, GpuStream& stream) {
  launch("all_gather", join_columns_kernel, row_grid(gathered.rows, gathered.columns, 1), kRowThreads, 0, stream,
         gathered);
}

}  // namespace quire::gpu
