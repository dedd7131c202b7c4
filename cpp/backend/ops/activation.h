#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

enum class Activation { kSilu, kGelu, kGeluTanh, kGeluQuick, kRelu, kRelu2 };

/// Which function a feed-forward part applies between its two matrices.
struct ActivationRule {
  Activation kind = Activation::kSilu;
  bool gated = false;
  /// > 0: the gate is limited to at most this, the other half to +-this, before anything else (gpt-oss). Gated only.
  float limit = 0.0f;
  /// Added to the other half behind its limit. Gated only.
  float offset = 0.0f;
};

/// Gated: out[t, f] = act(x[t, f]) * (x[t, F + f] + offset) with x[T, 2F]. Plain: out[t, f] = act(x[t, f]), in place
/// allowed.
struct ActivationArgs {
  ActivationRule rule;
  Tensor x;    ///< [T, 2F] if gated, else [T, F]
  Tensor out;  ///< [T, F], type of x
};
using ActivationFn = void (*)(const ActivationArgs&, Stream&);

}  // namespace quire
