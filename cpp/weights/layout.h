#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/tensor.h"

/// Arithmetic on shapes that come from files, where any number may be hostile.
namespace quire {

/// A view without data, row major. A scalar becomes a tensor of one element: a tensor of rank 0 stands for none.
/// `shape` has at most Tensor::kMaxRank sizes, none negative.
Tensor contiguous_layout(DType dtype, std::span<const int64_t> shape);

/// Bytes from the first element to behind the last, by shape and strides; empty if that overflows 63 bits. Sizes and
/// strides must not be negative.
std::optional<int64_t> layout_bytes(const Tensor& tensor);

/// "[32000, 4096]".
std::string shape_text(const Tensor& tensor);
std::string shape_text(std::span<const int64_t> shape);

}  // namespace quire
