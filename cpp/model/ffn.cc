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

void apply_ffn(const Step& step, const Ffn& spec, const FfnWeights& weights, Tensor x) {
  const int64_t num_tokens = step.batch.num_tokens;
  const int64_t up_columns = int64_t{spec.width} * (spec.gated ? 2 : 1);
  const Tensor up(step.memory.up.data, DType::kFloat32, {num_tokens, up_columns});
  const Tensor activated(step.memory.activated.data, DType::kFloat32, {num_tokens, spec.width});
  const Tensor hidden = step.memory.hidden;

  step.ops.linear({.x = x, .weight = &weights.up, .bias = weights.up_bias, .out = up}, step.stream);
  step.ops.activation({.rule = {.kind = activation_of(spec.act), .gated = spec.gated}, .x = up, .out = activated},
                      step.stream);
  step.ops.linear(
      {.x = activated, .weight = &weights.down, .bias = weights.down_bias, .residual = hidden, .out = hidden},
      step.stream);
}

}  // namespace quire
