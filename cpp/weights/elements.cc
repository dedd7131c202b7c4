#include "weights/elements.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "core/check.h"
#include "weights/layout.h"

namespace quire {
namespace {

/// Call `visit(data, count, stride)` for each row along the last axis, in row-major order; the stride is in bytes.
template <typename Visit>
void for_each_row(const Tensor& tensor, Visit&& visit) {
  const int last = tensor.rank - 1;
  const int64_t width = dtype_bytes(tensor.dtype);
  std::array<int64_t, Tensor::kMaxRank> index{};
  if (tensor.size() == 0) return;
  for (;;) {
    int64_t offset = 0;
    for (int axis = 0; axis < last; ++axis) offset += index[axis] * tensor.strides[axis];
    visit(static_cast<const std::byte*>(tensor.data) + offset * width, tensor.shape[last],
          tensor.strides[last] * width);
    int axis = last - 1;
    while (axis >= 0 && ++index[axis] == tensor.shape[axis]) index[axis--] = 0;
    if (axis < 0) return;
  }
}

template <typename T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof value);
  return value;
}

float element(const std::byte* data, DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return load<float>(data);
    case DType::kBFloat16: return to_float(load<BFloat16>(data));
    case DType::kFloat16: return to_float(load<Float16>(data));
    default: QUIRE_CHECK(false, "dtype=", dtype_name(dtype));
  }
  return 0;
}

void store(float value, DType dtype, std::byte* data) {
  const auto put = [&](auto converted) { std::memcpy(data, &converted, sizeof converted); };
  switch (dtype) {
    case DType::kFloat32: put(value); break;
    case DType::kBFloat16: put(to_bfloat16(value)); break;
    case DType::kFloat16: put(to_float16(value)); break;
    default: QUIRE_CHECK(false, "dtype=", dtype_name(dtype));
  }
}

/// A row-major view of the same shape, with memory for it.
Tensor make_like(const Tensor& tensor, DType dtype, std::vector<std::byte>& memory) {
  Tensor copy = contiguous_layout(dtype, std::span(tensor.shape).first(tensor.rank));
  memory.resize(static_cast<size_t>(copy.bytes()));
  copy.data = memory.data();
  return copy;
}

}  // namespace

bool is_contiguous(const Tensor& tensor) {
  const Tensor packed = contiguous_layout(tensor.dtype, std::span(tensor.shape).first(tensor.rank));
  return std::equal(packed.strides.begin(), packed.strides.begin() + packed.rank, tensor.strides.begin());
}

bool is_aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % dtype_bytes(tensor.dtype) == 0;
}

Tensor contiguous_copy(const Tensor& tensor, std::vector<std::byte>& memory) {
  const Tensor copy = make_like(tensor, tensor.dtype, memory);
  const int64_t width = dtype_bytes(tensor.dtype);
  std::byte* out = memory.data();
  for_each_row(tensor, [&](const std::byte* data, int64_t count, int64_t stride) {
    if (stride == width) {
      std::memcpy(out, data, count * width);
      out += count * width;
      return;
    }
    for (int64_t i = 0; i < count; ++i, out += width) std::memcpy(out, data + i * stride, width);
  });
  return copy;
}

Tensor converted_copy(const Tensor& tensor, DType dtype, std::vector<std::byte>& memory) {
  if (dtype == tensor.dtype) return contiguous_copy(tensor, memory);
  const Tensor copy = make_like(tensor, dtype, memory);
  std::byte* out = memory.data();
  for_each_row(tensor, [&](const std::byte* data, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i, out += dtype_bytes(dtype)) {
      store(element(data + i * stride, tensor.dtype), dtype, out);
    }
  });
  return copy;
}

void append_as_float(const Tensor& tensor, std::vector<float>& values) {
  for_each_row(tensor, [&](const std::byte* data, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < count; ++i) values.push_back(element(data + i * stride, tensor.dtype));
  });
}

}  // namespace quire
