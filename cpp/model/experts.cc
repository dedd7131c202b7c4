#include "core/check.h"
#include "model/step.h"

namespace quire {
namespace {

/// The expert that every token uses; its result is added to what stands in `out`.
void add_shared_expert(const Step& step, const Ffn& spec, const FfnWeights& weights, Tensor x, Tensor out) {
  const FfnMatrices matrices{.up = weights.shared_up,
                             .up_bias = {},
                             .down = weights.shared_down,
                             .down_bias = {},
                             .width = spec.moe->shared_width};
  if (!spec.moe->shared_gate) return apply_matrices(step, spec, matrices, {.x = x}, {.residual = out, .out = out});
  const Tensor gate = step.memory.shared_gate;
  const Tensor result = step.memory.shared_out;
  QUIRE_CHECK(out.data != x.data, "a shared expert reads what the others have read");
  step.ops.linear({.x = x, .weight = &weights.shared_gate, .out = gate}, step.stream);
  apply_matrices(step, spec, matrices, {.x = x}, {.residual = {}, .out = result});
  step.ops.add({.x = result, .gate = gate, .out = out}, step.stream);
}

}  // namespace

void apply_experts(const Step& step, const Ffn& spec, const FfnWeights& weights, const PartInput& input,
                   const Sink& sink) {
  const Tensor x = normed(step, input);
  const Moe& moe = *spec.moe;
  const int64_t num_tokens = step.batch.num_tokens;
  const Tensor logits(step.memory.router_logits.data, DType::kFloat32, {num_tokens, moe.num_experts});
  auto* const experts = step.memory.experts.as<int32_t>();
  auto* const expert_weights = step.memory.expert_weights.as<float>();
  step.ops.linear({.x = x, .weight = &weights.router, .bias = weights.router_bias, .out = logits}, step.stream);
  step.ops.route({.logits = logits,
                  .choice_bias = weights.choice_bias,
                  .scoring = moe.scoring == Moe::Scoring::kSoftmax ? RouterScoring::kSoftmax : RouterScoring::kSigmoid,
                  .renormalize = moe.renormalize,
                  .num_groups = moe.num_groups,
                  .top_groups = moe.top_groups,
                  .group_scoring = moe.groups_by_two ? GroupScoring::kSumOfBestTwo : GroupScoring::kBest,
                  .scale = static_cast<float>(moe.scale),
                  .top_k = moe.top_k,
                  .experts = experts,
                  .weights = expert_weights},
                 step.stream);
  step.ops.moe({.x = x,
                .experts = experts,
                .weights = expert_weights,
                .top_k = moe.top_k,
                .up = &weights.up,
                .up_bias = weights.up_bias,
                .activation = activation_rule(spec),
                .down = &weights.down,
                .down_bias = weights.down_bias,
                .residual = sink.residual,
                .out = sink.out,
                .scratch = step.memory.moe_scratch.data},
               step.stream);
  if (moe.shared_width > 0) add_shared_expert(step, spec, weights, x, sink.out);
}

}  // namespace quire
