// The instructions of AMD's GPUs that kernels on the matrix cores are made of, each behind a function: products of one
// wave (matrix_core.h says what they compute), exchanges between the lanes of a wave, and two approximations. A build
// that runs these kernels elsewhere puts its own file of this name first in the include path.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

/// matrix_lanes() of the target that is being compiled for; 0 for the host.
#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__) || defined(__gfx950__)
#define QUIRE_HAS_MFMA
constexpr int kMatrixLanes = 64;
#elif defined(__GFX11__)
#define QUIRE_HAS_WMMA
constexpr int kMatrixLanes = 32;
#else
constexpr int kMatrixLanes = 0;
#endif

/// Eight neighbours of 16 bits, loaded and stored at once, and four.
using Chunk = uint32_t __attribute__((ext_vector_type(4)));
using HalfChunk = uint32_t __attribute__((ext_vector_type(2)));

/// What is read once: it is not to push anything else out of the caches.
__device__ inline Chunk load_once(const void* from) {
#if defined(__AMDGCN__)
  return __builtin_nontemporal_load(static_cast<const Chunk*>(from));
#else
  return *static_cast<const Chunk*>(from);
#endif
}

/// The wave's index in its block, known to the compiler to be the same in all lanes.
template <int kLanes>
__device__ inline int wave_of_block() {
#if defined(__AMDGCN__)
  return __builtin_amdgcn_readfirstlane(static_cast<int>(threadIdx.x) / kLanes);
#else
  return static_cast<int>(threadIdx.x) / kLanes;
#endif
}

/// Shared memory; one instruction for up to 16 bytes, aligned to their number.
template <typename Value>
__device__ inline Value read_shared(const Value* from) {
  return *from;
}
template <typename Value>
__device__ inline void write_shared(Value* to, const Value& value) {
  *to = value;
}

/// What other lanes of the wave wrote to shared memory before is seen afterwards. All lanes must come.
template <int kLanes>
__device__ inline void sync_wave() {
#if defined(__AMDGCN__)
  __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
  __builtin_amdgcn_wave_barrier();
  __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
#endif
}

/// The value of the lane whose number differs by the bits of `mask`. All lanes must come.
template <int kLanes>
__device__ inline uint32_t exchange(uint32_t value, int mask) {
#if defined(__AMDGCN__)
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  return static_cast<uint32_t>(__builtin_amdgcn_ds_bpermute((lane ^ mask) * 4, static_cast<int>(value)));
#else
  return value;
#endif
}

/// 2^x, within two units in the last place; 0 for -infinity and where the result would be denormal.
__device__ inline float power_of_two(float x) {
#if defined(__AMDGCN__) && __has_builtin(__builtin_amdgcn_exp2f)
  return __builtin_amdgcn_exp2f(x);
#else
  return __builtin_exp2f(x);
#endif
}

/// 1 / x, within a unit in the last place.
__device__ inline float reciprocal(float x) {
#if defined(__AMDGCN__)
  return __builtin_amdgcn_rcpf(x);
#else
  return 1.0f / x;
#endif
}

namespace detail {
using Float4 = float __attribute__((ext_vector_type(4)));
using Float8 = float __attribute__((ext_vector_type(8)));
using Short4 = short __attribute__((ext_vector_type(4)));
using Short16 = short __attribute__((ext_vector_type(16)));
using Half4 = _Float16 __attribute__((ext_vector_type(4)));
using Half16 = _Float16 __attribute__((ext_vector_type(16)));
template <typename Vector, int kWords>
__device__ inline Vector vector_of(const uint32_t* words) {
  static_assert(sizeof(Vector) == kWords * sizeof(uint32_t));
  Vector vector;
  __builtin_memcpy(&vector, words, sizeof(vector));
  return vector;
}
}  // namespace detail

/// One product instruction of a wave, d += a * b^T with 16 rows in a and in b; T: BFloat or Half. `a` and `b` are 2
/// words of 64 lanes, 8 of 32. All lanes must come.
template <typename T, int kLanes>
__device__ inline void multiply_add([[maybe_unused]] float (&d)[256 / kLanes], [[maybe_unused]] const uint32_t* a,
                                    [[maybe_unused]] const uint32_t* b) {
#if defined(QUIRE_HAS_MFMA)
  static_assert(kLanes == 64);
  detail::Float4 sum = {d[0], d[1], d[2], d[3]};
  if constexpr (std::is_same_v<T, BFloat>) {
    sum = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(detail::vector_of<detail::Short4, 2>(a),
                                                    detail::vector_of<detail::Short4, 2>(b), sum, 0, 0, 0);
  } else {
    sum = __builtin_amdgcn_mfma_f32_16x16x16f16(detail::vector_of<detail::Half4, 2>(a),
                                                detail::vector_of<detail::Half4, 2>(b), sum, 0, 0, 0);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) d[i] = sum[i];
#elif defined(QUIRE_HAS_WMMA)
  static_assert(kLanes == 32);
  detail::Float8 sum = {d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]};
  if constexpr (std::is_same_v<T, BFloat>) {
    sum = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(detail::vector_of<detail::Short16, 8>(a),
                                                      detail::vector_of<detail::Short16, 8>(b), sum);
  } else {
    sum = __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(detail::vector_of<detail::Half16, 8>(a),
                                                     detail::vector_of<detail::Half16, 8>(b), sum);
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) d[i] = sum[i];
#endif
}

}  // namespace quire::gpu
