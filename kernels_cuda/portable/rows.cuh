// What the ops over rows of a matrix share: several elements of a row per thread where memory allows, one where not.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "core/tensor.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

template <typename T, int kCount>
__device__ inline void load_floats(const T* from, float (&values)[kCount]) {
  const auto raw = *reinterpret_cast<const Vector<T, kCount>*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = to_float(raw[i]);
}

template <typename T, int kCount>
__device__ inline void store_floats(T* to, const float (&values)[kCount]) {
  Vector<T, kCount> raw;
#pragma unroll
  for (int i = 0; i < kCount; ++i) raw[i] = from_float<T>(values[i]);
  *reinterpret_cast<Vector<T, kCount>*>(to) = raw;
}

/// Whether all rows of `tensor` consist of whole, aligned vectors of `count` elements. Absent tensors do.
inline bool holds_vectors(const Tensor& tensor, int count) {
  if (!tensor) return true;
  bool whole = reinterpret_cast<uintptr_t>(tensor.data) % static_cast<size_t>(count * dtype_bytes(tensor.dtype)) == 0 &&
               tensor.shape[tensor.rank - 1] % count == 0;
  for (int axis = 0; axis + 1 < tensor.rank; ++axis) whole = whole && tensor.strides[axis] % count == 0;
  return whole;
}

inline bool hold_vectors(std::initializer_list<Tensor> tensors, int count) {
  for (const Tensor& tensor : tensors) {
    if (!holds_vectors(tensor, count)) return false;
  }
  return true;
}

constexpr int kRowThreads = 256;

/// Block (row, piece of the row) for a kernel whose threads take `per_thread` elements each.
inline dim3 row_grid(int64_t num_rows, int64_t width, int per_thread) {
  const int64_t elements = int64_t{kRowThreads} * per_thread;
  return {static_cast<unsigned>(num_rows), static_cast<unsigned>((width + elements - 1) / elements)};
}

/// First element of this thread in its row, with a grid of row_grid(). Of 32 bits: with 64 the compiler makes four
/// stores of store_floats(), each of which leaves parts of sectors.
template <int kCount>
__device__ inline int32_t row_element() {
  return static_cast<int32_t>((blockIdx.y * kRowThreads + threadIdx.x) * kCount);
}

}  // namespace quire::gpu
