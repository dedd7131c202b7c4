#pragma once

#include <cstdint>

#include "backend/ops/activation.h"
#include "backend/packed_linear.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// How logits become scores.
enum class RouterScoring { kSoftmax, kSigmoid };

/// How a group of experts is judged when only the best groups take part.
enum class GroupScoring { kBest, kSumOfBestTwo };

/// Which experts a token goes to, and with which weights.
///
/// scores = softmax or sigmoid of the logits. An expert is chosen by its score plus `choice_bias`: with several groups
/// (E / num_groups consecutive experts each) only experts of the `top_groups` best groups can be chosen. The top_k
/// best are taken, in falling order; ties go to the smaller id. Their weights are their scores without the bias; if
/// `renormalize` divided by their sum (sigmoid: plus 1e-20); then times `scale`. The chosen groups must hold top_k
/// experts. A token with a logit, or a biased score, that is NaN gets NaN weights and any distinct experts.
/// Source: arXiv:2401.06066 (DeepSeek-MoE), arXiv:2412.19437 section 2.1.2 (groups, bias).
struct RouteArgs {
  Tensor logits;       ///< [T, E] float32
  Tensor choice_bias;  ///< [E] float32, may be absent
  RouterScoring scoring = RouterScoring::kSoftmax;
  bool renormalize = false;
  int32_t num_groups = 1;
  int32_t top_groups = 1;
  GroupScoring group_scoring = GroupScoring::kBest;
  float scale = 1.0f;
  int32_t top_k = 1;
  int32_t* experts = nullptr;  ///< [T, top_k], out
  float* weights = nullptr;    ///< [T, top_k], out
};
using RouteFn = void (*)(const RouteArgs&, Stream&);

/// out[t] = sum over j of weights[t, j] * ffn(experts[t, j], x[t]) (+ residual[t]), where
/// ffn(e, x) = down[e] * act(up[e] * x + up_bias[e]) + down_bias[e].
///
/// Only the experts that some token goes to are read, each once per call. Order of the sums, on the CPU: inside an
/// expert as in the linear op; then fused multiply-adds over j from 0, starting at 0; then the residual. So a row's
/// result does not depend on the other rows.
struct MoeArgs {
  Tensor x;                          ///< [T, D], rows may be strided
  const int32_t* experts = nullptr;  ///< [T, top_k]; each in [0, E), no expert twice for one token
  const float* weights = nullptr;    ///< [T, top_k]
  int32_t top_k = 1;
  const PackedLinear* up = nullptr;  ///< E matrices [2F, D] if gated, gate above up, else [F, D]
  Tensor up_bias;                    ///< [E, 2F] or [E, F] float32, may be absent
  ActivationRule activation;
  const PackedLinear* down = nullptr;  ///< E matrices [D, F]
  Tensor down_bias;                    ///< [E, D] float32, may be absent
  Tensor residual;                     ///< [T, D] float32, may be absent, may be `out`
  Tensor out;                          ///< [T, D] float32; may be `x`
  void* scratch = nullptr;             ///< Backend::moe_scratch_bytes(); its contents do not matter
};
using MoeFn = void (*)(const MoeArgs&, Stream&);

/// What MoeArgs::scratch depends on.
struct MoeShape {
  int64_t num_tokens = 0;
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int64_t width = 0;       ///< D
  int64_t up_columns = 0;  ///< rows of `up`
  int64_t ffn_width = 0;   ///< F
};

}  // namespace quire
