// What kernels need of the vendor: NVIDIA. kernels_hip/compat.cuh has the same for AMD.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/common/nvidia.h"

namespace quire::gpu {

// 16-bit numbers; from float to nearest, ties to even.

using Half = __half;
using BFloat = __nv_bfloat16;

__device__ inline float to_float(Half value) {
  return __half2float(value);
}
__device__ inline float to_float(BFloat value) {
  return __bfloat162float(value);
}
__device__ inline Half half_from(float value) {
  return __float2half_rn(value);
}
__device__ inline BFloat bfloat_from(float value) {
  return __float2bfloat16_rn(value);
}
__device__ inline Half half_of_bits(uint16_t bits) {
  return __ushort_as_half(bits);
}
__device__ inline BFloat bfloat_of_bits(uint16_t bits) {
  return __ushort_as_bfloat16(bits);
}

/// Not to stay in the first-level cache, for others may write what lies beside it.
__device__ inline float load_past_l1(const float* memory) {
  return __ldcg(memory);
}
__device__ inline uint4 load_past_l1(const uint4* memory) {
  return __ldcg(memory);
}

// Lanes of a warp. All lanes must come along unless it is said otherwise.

constexpr unsigned kFullWarp = 0xffffffffu;

/// What the others wrote to memory before is seen afterwards.
__device__ inline void sync_warp() {
  __syncwarp();
}

/// The value of lane `lane`; of this lane's number with the bits of `mask` flipped; of the lane `offset` before this
/// one, if there is one, else its own.
template <typename T>
__device__ inline T shuffle(T value, int lane) {
  return __shfl_sync(kFullWarp, value, lane);
}
template <typename T>
__device__ inline T shuffle_xor(T value, int mask) {
  return __shfl_xor_sync(kFullWarp, value, mask);
}
template <typename T>
__device__ inline T shuffle_up(T value, int offset) {
  return __shfl_up_sync(kFullWarp, value, static_cast<unsigned>(offset));
}

/// Bit i: what lane i says.
__device__ inline uint32_t ballot(bool vote) {
  return __ballot_sync(kFullWarp, vote);
}
__device__ inline bool all_of_warp(bool vote) {
  return __all_sync(kFullWarp, vote);
}
/// The lanes that have the same value.
__device__ inline uint32_t lanes_like(int value) {
  return __match_any_sync(kFullWarp, value);
}

__device__ inline int lowest_lane(uint32_t lanes) {
  return __ffs(static_cast<int>(lanes)) - 1;
}

/// The lanes that are here together with this one; some of those that could be, at least itself.
__device__ inline uint32_t active_lanes() {
  return __activemask();
}
/// Whether the value is the same in `lanes`, which are active_lanes().
__device__ inline bool all_alike(uint32_t lanes, int value) {
  int alike = 0;
  __match_all_sync(lanes, value, &alike);
  return alike != 0;
}

__device__ inline uint32_t warp_largest(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_max_sync(kFullWarp, value);
#else
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = max(value, shuffle_xor(value, offset));
  return value;
#endif
}

}  // namespace quire::gpu
