#include "spec/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/check.h"

namespace quire {
namespace {

std::vector<double> plain_frequencies(double base, int32_t dim) {
  std::vector<double> frequencies(dim / 2);
  for (int32_t i = 0; i < dim / 2; ++i) frequencies[i] = std::pow(base, -2.0 * i / dim);
  return frequencies;
}

/// Dynamic NTK: a base so much larger that the slowest pair turns over `length` as it did over the original length.
double dynamic_base(const Rope& rope, int64_t length) {
  const RopeScaling& scaling = rope.scaling;
  const double stretch = static_cast<double>(std::max<int64_t>(length, scaling.original_max_positions)) /
                         static_cast<double>(scaling.original_max_positions);
  const double exponent = static_cast<double>(rope.dim) / (rope.dim - 2);
  return rope.base * std::pow(scaling.factor * stretch - (scaling.factor - 1), exponent);
}

/// How often the original length has to be doubled to hold `length` tokens.
int32_t doublings(const RopeScaling& scaling, int64_t length) {
  int32_t count = 0;
  for (int64_t held = scaling.original_max_positions; held < length; held *= 2) ++count;
  return count;
}

/// Dynamic NTK in steps. Source: the published modeling_qwen.py, get_ntk_alpha.
double qwen_dynamic_base(const Rope& rope, int64_t length) {
  const double alpha = std::exp2(doublings(rope.scaling, length) + 1) - 1;
  return rope.base * std::pow(alpha, static_cast<double>(rope.dim) / (rope.dim - 2));
}

/// The scaling with several sets of angles among a model's layers, if there is one.
const RopeScaling* scaling_with_sets(const ModelSpec& spec) {
  for (const Layer& layer : spec.layers) {
    const auto* rope = std::get_if<Rope>(&layer.attention.positions);
    if (rope == nullptr) continue;
    const auto kind = rope->scaling.kind;
    if (kind == RopeScaling::Kind::kLongRope || kind == RopeScaling::Kind::kQwenDynamic) return &rope->scaling;
  }
  return nullptr;
}

/// Wavelengths within the original length stay, those far beyond it are stretched by the factor, those between are
/// blended.
double llama3_frequency(const RopeScaling& scaling, double frequency) {
  const double turns = scaling.original_max_positions * frequency / (2 * std::numbers::pi);
  if (turns > scaling.high_freq_factor) return frequency;
  if (turns < scaling.low_freq_factor) return frequency / scaling.factor;
  const double kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

/// The (fractional) pair that turns `rotations` times over the original length.
double yarn_pair(const Rope& rope, double rotations) {
  const double period = rope.scaling.original_max_positions / (rotations * 2 * std::numbers::pi);
  return rope.dim * std::log(period) / (2 * std::log(rope.base));
}

void apply_yarn(const Rope& rope, std::vector<double>& frequencies) {
  double low = yarn_pair(rope, rope.scaling.beta_fast);
  double high = yarn_pair(rope, rope.scaling.beta_slow);
  if (rope.scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, rope.dim - 1.0);
  if (low == high) high += 0.001;  // a step instead of a ramp, as in the source
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / rope.scaling.factor * stretched + frequencies[i] * (1 - stretched);
  }
}

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

std::vector<double> rope_inverse_frequencies(const Rope& rope, int64_t length) {
  QUIRE_CHECK(rope.dim > 0 && rope.dim % 2 == 0 && length >= 1, "dim=", rope.dim, ", length=", length);
  const RopeScaling& scaling = rope.scaling;
  double base = rope.base;
  if (scaling.kind == RopeScaling::Kind::kDynamic) base = dynamic_base(rope, length);
  if (scaling.kind == RopeScaling::Kind::kQwenDynamic) base = qwen_dynamic_base(rope, length);
  std::vector<double> frequencies = plain_frequencies(base, rope.dim);
  switch (scaling.kind) {
    case RopeScaling::Kind::kNone:
    case RopeScaling::Kind::kDynamic:
    case RopeScaling::Kind::kQwenDynamic: break;
    case RopeScaling::Kind::kLinear:
      for (double& frequency : frequencies) frequency /= scaling.factor;
      break;
    case RopeScaling::Kind::kLlama3:
      for (double& frequency : frequencies) frequency = llama3_frequency(scaling, frequency);
      break;
    case RopeScaling::Kind::kYarn: apply_yarn(rope, frequencies); break;
    case RopeScaling::Kind::kLongRope: {
      const auto& factors = length > scaling.original_max_positions ? scaling.long_factors : scaling.short_factors;
      QUIRE_CHECK(factors.size() == frequencies.size(), "factors=", factors.size(), ", pairs=", frequencies.size());
      for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= factors[i];
      break;
    }
  }
  return frequencies;
}

int32_t rope_set(const ModelSpec& spec, int64_t length) {
  const RopeScaling* scaling = scaling_with_sets(spec);
  if (scaling == nullptr) return 0;
  if (scaling->kind == RopeScaling::Kind::kLongRope) return length > scaling->original_max_positions ? 1 : 0;
  return doublings(*scaling, length);
}

int32_t num_rope_sets(const ModelSpec& spec, int32_t max_model_len) {
  return rope_set(spec, max_model_len) + 1;
}

int64_t rope_set_length(const Rope& rope, int32_t set) {
  return set == 0 ? 1 : int64_t{rope.scaling.original_max_positions} << set;
}

std::optional<int32_t> rope_recompute_length(const ModelSpec& spec) {
  const RopeScaling* scaling = scaling_with_sets(spec);
  if (scaling == nullptr || scaling->kind != RopeScaling::Kind::kLongRope) return std::nullopt;
  return scaling->original_max_positions;
}

double rope_attention_factor(const Rope& rope) {
  const RopeScaling& scaling = rope.scaling;
  const bool scales_attention =
      scaling.kind == RopeScaling::Kind::kYarn || scaling.kind == RopeScaling::Kind::kLongRope;
  if (!scales_attention) return 1.0;
  if (scaling.attention_factor >= 0) return scaling.attention_factor;
  if (scaling.kind == RopeScaling::Kind::kLongRope) {
    if (scaling.factor <= 1) return 1.0;
    return std::sqrt(1 + std::log(scaling.factor) / std::log(static_cast<double>(scaling.original_max_positions)));
  }
  if (scaling.mscale != 0 && scaling.mscale_all_dim != 0) {
    return yarn_magnitude(scaling.factor, scaling.mscale) / yarn_magnitude(scaling.factor, scaling.mscale_all_dim);
  }
  return yarn_magnitude(scaling.factor, 1.0);
}

}  // namespace quire
