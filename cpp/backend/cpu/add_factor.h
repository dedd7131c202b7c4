#pragma once

#include <cmath>
#include <cstdint>

#include "backend/ops/add.h"

namespace quire::cpu {

/// What the add op multiplies row `row` with; the same on every instruction set.
inline float add_factor(const AddArgs& args, int64_t row) {
  if (!args.gate) return args.scale;
  const float logit = args.gate.as<const float>()[row * args.gate.strides[0]];
  return args.scale / (1.0f + std::exp(-logit));
}

}  // namespace quire::cpu
