#pragma once

#include "backend/packed_linear.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// out[t] = table[ids[t] + offset] * scale (+ out[t] if `accumulate`, for learned positions).
struct EmbedArgs {
  Tensor table;  ///< [V, D], float32, bfloat16 or float16; absent if `packed` is there
  /// [V, D], the head of a tied model: so that its numbers are held once.
  const PackedLinear* packed = nullptr;
  const int32_t* ids = nullptr;  ///< [T], each + offset within [0, V)
  int32_t offset = 0;            ///< OPT's positions start at 2
  float scale = 1.0f;
  bool accumulate = false;
  Tensor out;  ///< [T, D]
};
using EmbedFn = void (*)(const EmbedArgs&, Stream&);

}  // namespace quire
