// Sums and maxima over a warp or a block, in a fixed order.
#pragma once

#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

__device__ inline float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += shuffle_xor(value, offset);
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = fmaxf(value, shuffle_xor(value, offset));
  return value;
}

/// All threads get the sum; kThreads of the block, a multiple of 32. `shared`: kThreads / 32 floats that nobody else
/// uses until after the call; a block that calls it twice in a row needs a barrier between, or two pieces.
template <int kThreads>
__device__ inline float block_sum(float value, float* shared) {
  constexpr int kWarps = kThreads / 32;
  value = warp_sum(value);
  if constexpr (kWarps == 1) return value;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += shared[warp];
  return total;
}

}  // namespace quire::gpu
