// The words of CUDA and HIP that quire's kernels use, for a C++ compiler; block.h says how threads run.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "gpu_on_cpu/block.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __grid_constant__
// The block's, as a thread of the processor runs one at a time.
#define __shared__ static thread_local
#define QUIRE_DYNAMIC_SHARED(type, name) auto* const name = reinterpret_cast<type*>(gpu_on_cpu::dynamic_memory())

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct alignas(16) ulonglong2 {
  uint64_t x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline int2 make_int2(int x, int y) {
  return {x, y};
}
inline uint2 make_uint2(uint32_t x, uint32_t y) {
  return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

inline void __syncthreads() {
  gpu_on_cpu::sync_block();
}
inline int __syncthreads_count(int vote) {
  return gpu_on_cpu::count_votes(vote != 0);
}
inline int __syncthreads_and(int vote) {
  return gpu_on_cpu::count_votes(vote == 0) == 0;
}
inline int __syncthreads_or(int vote) {
  return gpu_on_cpu::count_votes(vote != 0) != 0;
}
inline void __threadfence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

template <typename T, typename Change>
T atomic_change(T* at, Change change) {
  const std::atomic_ref<T> shared(*at);
  T before = shared.load();
  while (!shared.compare_exchange_weak(before, change(before))) {
  }
  return before;
}
template <typename T>
T atomicAdd(T* at, T value) {
  return atomic_change(at, [&](T before) { return before + value; });
}
template <typename T>
T atomicMin(T* at, T value) {
  return atomic_change(at, [&](T before) { return std::min(before, value); });
}
template <typename T>
T atomicMax(T* at, T value) {
  return atomic_change(at, [&](T before) { return std::max(before, value); });
}
template <typename T>
T atomicOr(T* at, T value) {
  return atomic_change(at, [&](T before) { return before | value; });
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
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
