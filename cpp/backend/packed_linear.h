#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/tensor.h"

namespace quire {

/// A weight matrix, or several of one shape, as a checkpoint stores them: what Backend::pack_linear reads, in host
/// memory.
struct LinearSource {
  /// Stacked along N: q, k and v become one matrix. Each is [N_i, K], or [K, N_i] if `transposed`, with any strides.
  /// float32, bfloat16 or float16, all the same. With several groups: the parts of the first, then of the second, ...
  std::vector<Tensor> parts;
  /// Matrices to pack, one for each expert or head. Divides the number of parts.
  int64_t groups = 1;
  /// GPT-2's Conv1D layout.
  bool transposed = false;
  /// Type to keep; differs from the parts' only when the user asked for another.
  DType dtype = DType::kFloat32;
};

/// A weight matrix as a backend wants it, or several of one shape. Only the backend that packed it knows its inside.
struct PackedLinear {
  int64_t n = 0;       ///< output features, padding not counted
  int64_t k = 0;       ///< input features
  int64_t groups = 1;  ///< matrices [n, k]: experts or heads
  DType dtype = DType::kFloat32;
  Buffer data;

  explicit operator bool() const { return n > 0; }
};

}  // namespace quire
