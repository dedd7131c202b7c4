#include "weights/layout.h"

#include <algorithm>

namespace quire {

Tensor contiguous_layout(DType dtype, std::span<const int64_t> shape) {
  Tensor tensor;
  tensor.dtype = dtype;
  tensor.rank = std::max(1, static_cast<int>(shape.size()));
  tensor.shape[0] = 1;
  std::copy(shape.begin(), shape.end(), tensor.shape.begin());
  int64_t stride = 1;
  for (int axis = tensor.rank - 1; axis >= 0; --axis) {
    tensor.strides[axis] = stride;
    // A stride that overflows belongs to a tensor that layout_bytes refuses; the value does not matter then.
    if (__builtin_mul_overflow(stride, tensor.shape[axis], &stride)) stride = 0;
  }
  return tensor;
}

std::optional<int64_t> layout_bytes(const Tensor& tensor) {
  // Both the number of elements and the reach of the strides must fit: the first is what later code multiplies out.
  // Sizes of zero count as one, so that the product fits in whatever order it is taken.
  bool empty = false;
  int64_t bytes = dtype_bytes(tensor.dtype);
  int64_t last = 0;
  for (int axis = 0; axis < tensor.rank; ++axis) {
    const int64_t size = std::max<int64_t>(tensor.shape[axis], 1);
    empty = empty || tensor.shape[axis] == 0;
    int64_t reach = 0;
    if (__builtin_mul_overflow(bytes, size, &bytes) || __builtin_mul_overflow(size - 1, tensor.strides[axis], &reach) ||
        __builtin_add_overflow(last, reach, &last)) {
      return std::nullopt;
    }
  }
  if (__builtin_add_overflow(last, 1, &last) || __builtin_mul_overflow(last, dtype_bytes(tensor.dtype), &bytes)) {
    return std::nullopt;
  }
  return empty ? 0 : bytes;
}

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

std::string shape_text(const Tensor& tensor) {
  return shape_text(std::span(tensor.shape).first(tensor.rank));
}

}  // namespace quire
