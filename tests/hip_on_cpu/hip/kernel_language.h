// The words of HIP that quire's kernels use, for a C++ compiler; block.h says how threads run.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "hip/block.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
// The block's, as one runs at a time.
#define __shared__ static

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

inline void __syncthreads() {
  hip_on_cpu::sync_block();
}
inline int __syncthreads_count(int vote) {
  return hip_on_cpu::count_votes(vote != 0);
}
inline int __syncthreads_and(int vote) {
  return hip_on_cpu::count_votes(vote == 0) == 0;
}
inline void __threadfence() {}

// No other thread can come between, for none is switched to.
template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <typename T>
T atomicMin(T* at, T value) {
  const T before = *at;
  *at = std::min(before, value);
  return before;
}
template <typename T>
T atomicMax(T* at, T value) {
  const T before = *at;
  *at = std::max(before, value);
  return before;
}
template <typename T>
T atomicOr(T* at, T value) {
  const T before = *at;
  *at = before | value;
  return before;
}

inline float __uint_as_float(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
inline uint32_t __float_as_uint(float value) {
  return __builtin_bit_cast(uint32_t, value);
}
inline float __int_as_float(int bits) {
  return __builtin_bit_cast(float, bits);
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
#define __expf expf  // a name that glibc has and does not export
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float value) {
  return 1.0f / std::sqrt(value);
}
inline int __popc(uint32_t value) {
  return __builtin_popcount(value);
}
inline int __ffs(int value) {
  return __builtin_ffs(value);
}
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
