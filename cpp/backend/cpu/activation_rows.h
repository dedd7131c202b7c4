#pragma once

#include <cstdint>
#include <limits>

#include "backend/ops/activation.h"

namespace quire::cpu {

/// out[i] = act(x[i]), gated: times other[i], within the rule's limits. In place allowed.
using ActivateRowFn = void (*)(const ActivationRule& rule, const float* x, const float* other, float* out,
                               int64_t size);

/// What surrounds the function. Limit and offset are one form: the few models that have either have both.
enum class ActivationForm { kPlain, kGated, kLimited };

inline ActivationForm activation_form(const ActivationRule& rule) {
  if (!rule.gated) return ActivationForm::kPlain;
  return rule.limit > 0.0f || rule.offset != 0.0f ? ActivationForm::kLimited : ActivationForm::kGated;
}

/// What the halves are limited to; infinite where the rule has no limit.
inline float activation_limit(const ActivationRule& rule) {
  return rule.limit > 0.0f ? rule.limit : std::numeric_limits<float>::infinity();
}

}  // namespace quire::cpu
