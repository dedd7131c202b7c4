#pragma once

#include "backend/ops/activation.h"
#include "backend/ops/kv_write.h"
#include "backend/ops/linear.h"
#include "backend/ops/norm.h"
#include "backend/ops/rope.h"

namespace quire {

class Stream;

/// A norm, the linear op over its result, and what a feed-forward part does to that: three ops as one, because a step
/// of few tokens spends more time between kernels than in the small ones.
///
/// y = weight * norm(x) + bias; out = activation(y), or y without an activation.
struct NormedLinearArgs {
  NormArgs norm;                         ///< x [T, D] float32; `out` is room for its result, which need not be used
  const PackedLinear* weight = nullptr;  ///< [N, D], one group
  Tensor bias;                           ///< [N] float32, may be absent
  bool has_activation = false;
  ActivationRule activation;
  Tensor up;   ///< with an activation: room for y [T, N], which need not be used
  Tensor out;  ///< [T, N]; with a gated activation [T, N / 2]
};
using NormedLinearFn = void (*)(const NormedLinearArgs&, Stream&);

/// The rope op over q and k, then the kv_write op. What q and k hold afterwards only the attention op behind it may
/// look at, with the same q: a backend may turn them on their way into the cache and into that op.
struct RopeKvWriteArgs {
  Tensor q;        ///< [T, H, K], rows may be strided
  RopeArgs rope;   ///< rows, tables and layout; x and out are not looked at
  KvWriteArgs kv;  ///< k and v of q's type and row stride; k is turned before it is stored
};
using RopeKvWriteFn = void (*)(const RopeKvWriteArgs&, Stream&);

}  // namespace quire
