#include "core/check.h"
#include "model/step.h"

namespace quire {
namespace {

Activation activation_of(Ffn::Act act) {
  switch (act) {
    case Ffn::Act::kSilu: return Activation::kSilu;
    case Ffn::Act::kGelu: return Activation::kGelu;
    case Ffn::Act::kGeluTanh: return Activation::kGeluTanh;
    case Ffn::Act::kGeluQuick: return Activation::kGeluQuick;
    case Ffn::Act::kRelu: return Activation::kRelu;
    case Ffn::Act::kRelu2: return Activation::kRelu2;
  }
  QUIRE_CHECK(false, "act=", static_cast<int>(act));
  return Activation::kSilu;
}

}  // namespace

ActivationRule activation_rule(const Ffn& spec) {
  return {.kind = activation_of(spec.act),
          .gated = spec.gated,
          .limit = static_cast<float>(spec.limit),
          .offset = static_cast<float>(spec.offset)};
}

void apply_matrices(const Step& step, const Ffn& spec, const FfnMatrices& matrices, const PartInput& input,
                    const Sink& sink) {
  const int64_t num_tokens = step.batch.num_tokens;
  const Tensor up(step.memory.up.data, step.memory.up.dtype, {num_tokens, spec.up_columns(matrices.width)});
  const Tensor activated(step.memory.activated.data, step.memory.activated.dtype, {num_tokens, matrices.width});
  const ActivationRule rule = activation_rule(spec);
  apply_first_linear(step, input,
                     {.weight = matrices.up, .bias = matrices.up_bias, .rule = &rule, .up = up, .out = activated});
  step.ops.linear({.x = activated,
                   .weight = &matrices.down,
                   .bias = matrices.down_bias,
                   .residual = sink.residual,
                   .out = sink.out},
                  step.stream);
}

void apply_ffn(const Step& step, const Ffn& spec, const FfnWeights& weights, const PartInput& input, const Sink& sink) {
  apply_matrices(step, spec,
                 {.up = weights.up,
                  .up_bias = weights.up_bias,
                  .down = weights.down,
                  .down_bias = weights.down_bias,
                  .width = spec.width},
                 input, sink);
}

}  // namespace quire
