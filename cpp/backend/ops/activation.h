#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

enum class Activation { kSilu, kGelu, kGeluTanh, kGeluQuick, kRelu, kRelu2 };

/// Gated: out[t, f] = act(x[t, f]) * x[t, F + f] with x[T, 2F]. Plain: out[t, f] = act(x[t, f]), in place allowed.
struct ActivationArgs {
  Activation kind = Activation::kSilu;
  bool gated = false;
  Tensor x;    ///< [T, 2F] if gated, else [T, F]; float32
  Tensor out;  ///< [T, F] float32
};
using ActivationFn = void (*)(const ActivationArgs&, Stream&);

}  // namespace quire
