#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

enum class RopeLayout {
  kHalf,         ///< pairs (i, i + R/2), GPT-NeoX and Llama
  kInterleaved,  ///< pairs (2i, 2i + 1), GPT-J
};

/// Rotate the first R components of every head; the others stay as they are.
/// Source: Su et al., arXiv:2104.09864.
struct RopeArgs {
  Tensor x;                       ///< [T, H, K], rows may be strided
  const int32_t* rows = nullptr;  ///< [T], row of the table: the position, shifted where a second set of angles is used
  Tensor cos;                     ///< [P, R/2] float32
  Tensor sin;                     ///< [P, R/2] float32
  RopeLayout layout = RopeLayout::kHalf;
  Tensor out;  ///< shape and type of x, any strides but the last; may be `x`
};
using RopeFn = void (*)(const RopeArgs&, Stream&);

}  // namespace quire
