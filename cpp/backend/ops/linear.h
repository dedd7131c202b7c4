#pragma once

#include "backend/packed_linear.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// out[t, n] = sum_k x[t, k] * weight[n, k] (+ bias[n]) (+ residual[t, n]).
///
/// Order of the sum, on the CPU: one fused multiply-add after the other from k = 0, starting at 0, in float32; then
/// bias, then residual. So a row's result does not depend on T, nor on the instruction set.
struct LinearArgs {
  Tensor x;                              ///< [T, K], rows may be strided
  const PackedLinear* weight = nullptr;  ///< [N, K], one group
  Tensor bias;                           ///< [N] float32, may be absent
  Tensor residual;                       ///< [T, N] float32, may be absent, may be `out`
  Tensor out;                            ///< [T, N]; float32 where there is a residual; not `x`
};
using LinearFn = void (*)(const LinearArgs&, Stream&);

/// out[t, g] = weight[g] * x[t, g]: every group, a head say, has a matrix of its own. Order of the sum as above.
struct GroupedLinearArgs {
  Tensor x;                              ///< [T, G, K], any strides but the last
  const PackedLinear* weight = nullptr;  ///< G matrices [N, K]
  Tensor out;                            ///< [T, G, N], any strides but the last; not `x`
};
using GroupedLinearFn = void (*)(const GroupedLinearArgs&, Stream&);

}  // namespace quire
