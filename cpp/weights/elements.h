#pragma once

#include <cstddef>
#include <vector>

#include "core/tensor.h"

/// Reading tensors of files, which may be strided and need not be aligned for their type.
namespace quire {

/// Row major without gaps?
bool is_contiguous(const Tensor& tensor);

/// May its elements be read as they lie: aligned for their type?
bool is_aligned(const Tensor& tensor);

/// The elements in row-major order, of the same type or of another of float32, bfloat16 and float16; the view points
/// into `memory`. Rounds to nearest, ties to even.
Tensor contiguous_copy(const Tensor& tensor, std::vector<std::byte>& memory);
Tensor converted_copy(const Tensor& tensor, DType dtype, std::vector<std::byte>& memory);

/// Put the elements of a float32, bfloat16 or float16 tensor behind `values`, in row-major order.
void append_as_float(const Tensor& tensor, std::vector<float>& values);

}  // namespace quire
