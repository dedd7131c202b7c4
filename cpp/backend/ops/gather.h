#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

/// out[r] = x[rows[r]]: the hidden states whose logits are wanted.
struct GatherArgs {
  Tensor x;                       ///< [T, D] float32
  const int32_t* rows = nullptr;  ///< [R]
  Tensor out;                     ///< [R, D] float32; not `x`
};
using GatherFn = void (*)(const GatherArgs&, Stream&);

/// x = softcap * tanh(x * scale / softcap), or x * scale with softcap 0; in place, over the logits.
struct LogitScaleArgs {
  Tensor x;  ///< [R, V] float32
  float scale = 1.0f;
  float softcap = 0.0f;
};
using LogitScaleFn = void (*)(const LogitScaleArgs&, Stream&);

}  // namespace quire
