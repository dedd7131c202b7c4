#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "core/dtype.h"

namespace quire {

/// A view of elements in some device's memory: owns nothing, cheap to copy. An empty tensor (no data) stands for an
/// operand that is absent.
struct Tensor {
  static constexpr int kMaxRank = 4;

  void* data = nullptr;
  DType dtype = DType::kFloat32;
  int rank = 0;
  std::array<int64_t, kMaxRank> shape{};
  /// In elements. The last one is 1 in every tensor that an op takes.
  std::array<int64_t, kMaxRank> strides{};

  Tensor() = default;

  /// A contiguous row-major view.
  Tensor(void* memory, DType type, std::initializer_list<int64_t> sizes)
      : data(memory), dtype(type), rank(static_cast<int>(sizes.size())) {
    int axis = 0;
    for (const int64_t size : sizes) shape[axis++] = size;
    int64_t stride = 1;
    for (axis = rank - 1; axis >= 0; --axis) {
      strides[axis] = stride;
      stride *= shape[axis];
    }
  }

  explicit operator bool() const { return rank > 0; }

  int64_t size() const {
    int64_t count = rank > 0 ? 1 : 0;
    for (int axis = 0; axis < rank; ++axis) count *= shape[axis];
    return count;
  }

  int64_t bytes() const { return size() * dtype_bytes(dtype); }

  /// The same elements from `first` on, `count` long, along axis 0.
  Tensor rows(int64_t first, int64_t count) const {
    Tensor view = *this;
    view.data = offset(first * strides[0]);
    view.shape[0] = count;
    return view;
  }

  /// The columns [first, first + count) of a matrix.
  Tensor columns(int64_t first, int64_t count) const {
    Tensor view = *this;
    view.data = offset(first * strides[rank - 1]);
    view.shape[rank - 1] = count;
    return view;
  }

  /// A matrix [T, heads * width] seen as [T, heads, width].
  Tensor heads(int64_t num_heads, int64_t width) const {
    Tensor view = *this;
    view.rank = 3;
    view.shape = {shape[0], num_heads, width, 0};
    view.strides = {strides[0], width, 1, 0};
    return view;
  }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

 private:
  /// Null stays null, so that shapes can be computed before there is memory.
  void* offset(int64_t elements) const {
    return data == nullptr ? nullptr : static_cast<std::byte*>(data) + elements * dtype_bytes(dtype);
  }
};

}  // namespace quire
