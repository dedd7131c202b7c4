#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

/// out[t] += scale * sigmoid(gate[t]) * x[t]; without a gate, scale * x[t].
struct AddArgs {
  Tensor x;  ///< [T, D], rows may be strided
  float scale = 1.0f;
  Tensor gate;  ///< [T, 1] float32 logits, may be absent
  Tensor out;   ///< [T, D] float32; not `x`
};
using AddFn = void (*)(const AddArgs&, Stream&);

/// x = min(max(x, -limit), limit), in place. NaN stays NaN.
struct ClipArgs {
  Tensor x;  ///< [T, N], rows may be strided
  float limit = 0.0f;
};
using ClipFn = void (*)(const ClipArgs&, Stream&);

}  // namespace quire
