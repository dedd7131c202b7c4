// Matrix products of one warp on the tensor cores: d[16, 8] += a[16, 16] * b[8, 16]^T with 16-bit inputs and float32
// sums (compute capability 8.0 and up), and the loads of their operands. Code that uses them is never launched below
// that, but is compiled: there the functions do nothing.
//
// Who holds what, g = lane / 4 and p = lane % 4 * 2:
//   a: [0] row g, columns p and p + 1; [1] row g + 8; [2] row g, columns p + 8 and p + 9; [3] row g + 8, the same
//   b: [0] row g, columns p and p + 1; [1] columns p + 8 and p + 9
//   d: [0] [1] row g, columns p and p + 1; [2] [3] row g + 8
#pragma once

#include <cstdint>

#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

/// Four 8x8 matrices of 16-bit elements from shared memory. Lanes 8i .. 8i+7 give the addresses of the rows of matrix
/// i, 16 bytes each and aligned to that; values[i] becomes row lane / 4, columns lane % 4 * 2 and the next of matrix i.
__device__ inline void load_matrices(uint32_t (&values)[4], uint32_t row_address) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(row_address)
               : "memory");
#endif
}

/// The same of the transposed matrices: values[i] becomes rows lane % 4 * 2 and the next, column lane / 4 of matrix i.
__device__ inline void load_matrices_transposed(uint32_t (&values)[4], uint32_t row_address) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 750
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(row_address)
               : "memory");
#endif
}

/// d += a * b^T; T: BFloat or Half.
template <typename T>
__device__ void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

template <>
__device__ inline void multiply_add<BFloat>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

template <>
__device__ inline void multiply_add<Half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

/// Two numbers as one register of an operand, the first in the lower half.
template <typename T>
__device__ uint32_t pack_pair(float low, float high);
template <>
__device__ inline uint32_t pack_pair<BFloat>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}
template <>
__device__ inline uint32_t pack_pair<Half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return reinterpret_cast<const uint32_t&>(pair);
}

}  // namespace quire::gpu
