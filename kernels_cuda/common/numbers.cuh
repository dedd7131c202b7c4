// The element types of activations, weights and caches, and how a kernel is chosen for them.
#pragma once

#include <cstdint>

#include "core/check.h"
#include "core/dtype.h"
#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

__device__ inline float to_float(float value) {
  return value;
}

/// Round to nearest, ties to even.
template <typename T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) {
  return value;
}
template <>
__device__ inline Half from_float<Half>(float value) {
  return half_from(value);
}
template <>
__device__ inline BFloat from_float<BFloat>(float value) {
  return bfloat_from(value);
}

/// kCount elements that are loaded and stored at once; 16 bytes as a rule. Memory must be aligned to its size.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T values[kCount];
  __device__ T& operator[](int i) { return values[i]; }
  __device__ const T& operator[](int i) const { return values[i]; }
};

/// Call `work` with a value of the C++ type of `dtype`: work(BFloat{}) say.
template <typename Work>
void with_type(DType dtype, Work&& work) {
  switch (dtype) {
    case DType::kFloat32: return work(float{});
    case DType::kBFloat16: return work(BFloat{});
    case DType::kFloat16: return work(Half{});
    default: QUIRE_CHECK(false, "dtype=", dtype_name(dtype));
  }
}

}  // namespace quire::gpu
