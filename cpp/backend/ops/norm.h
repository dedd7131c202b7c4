#pragma once

#include "core/tensor.h"

namespace quire {

class Stream;

enum class NormKind { kRms, kLayer };

/// Over the last axis of each row: rms: x / sqrt(mean(x^2) + eps) * weight; layer: (x - mean) / sqrt(var + eps) *
/// weight + bias. Rows are [T, D], or [T, H, K] with one weight[K] for all heads (per-head q/k norm) or weight[H, K].
/// `out` may be `x`.
struct NormArgs {
  NormKind kind = NormKind::kRms;
  float eps = 1e-5f;
  Tensor x;       ///< [T, D] or [T, H, K] with any row stride
  Tensor weight;  ///< [D], [K] or [H, K] float32; absent: ones
  Tensor bias;    ///< as weight; absent: zeros
  Tensor out;     ///< as x
};
using NormFn = void (*)(const NormArgs&, Stream&);

}  // namespace quire
