// What kernels need of the vendor: AMD. kernels_cuda/common/nvidia.cuh has the same for NVIDIA, and says what the
// functions do.
#pragma once

#include <hip/hip_fp16.h>

#include <cstdint>

#include "kernels_hip/bfloat.h"
#include "kernels_hip/compat.h"
#include "kernels_hip/warp.h"
#include "kernels_hip/wave.cuh"

namespace quire::gpu {

// 16-bit numbers; BFloat is in bfloat.h.

using Half = __half;

__device__ inline float to_float(Half value) {
  return __half2float(value);
}
__device__ inline Half half_from(float value) {
  return __float2half_rn(value);
}
__device__ inline Half half_of_bits(uint16_t bits) {
  return __ushort_as_half(bits);
}

#if !defined(QUIRE_DYNAMIC_SHARED)  // as tests may have it
#define QUIRE_DYNAMIC_SHARED(type, name) extern __shared__ __align__(128) type name[]
#endif

// One kernel after the other.

__device__ inline void wait_for_previous() {}
__device__ inline void let_next_start() {}

// Lanes of a warp.

using OwnWarp = Warp<Wave>;

__device__ inline void sync_warp() {
  Wave::sync();
}
template <typename T>
__device__ inline T shuffle(T value, int lane) {
  return OwnWarp::shuffle(value, lane);
}
template <typename T>
__device__ inline T shuffle_xor(T value, int mask) {
  return OwnWarp::shuffle_xor(value, mask);
}
template <typename T>
__device__ inline T shuffle_up(T value, int offset) {
  return OwnWarp::shuffle_up(value, offset);
}
__device__ inline uint32_t ballot(bool vote) {
  return OwnWarp::ballot(vote);
}
__device__ inline bool all_of_warp(bool vote) {
  return OwnWarp::all(vote);
}
__device__ inline uint32_t lanes_like(int value) {
  return OwnWarp::lanes_like(value);
}
__device__ inline int lowest_lane(uint32_t lanes) {
  return Wave::lowest(lanes);
}
__device__ inline uint32_t active_lanes() {
  return OwnWarp::active_lanes();
}
__device__ inline bool all_alike(uint32_t lanes, int value) {
  return OwnWarp::all_alike(lanes, value);
}
__device__ inline uint32_t warp_largest(uint32_t value) {
  return OwnWarp::largest(value);
}

}  // namespace quire::gpu
