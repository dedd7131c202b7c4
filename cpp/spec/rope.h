#pragma once

#include <cstdint>
#include <vector>

#include "spec/spec.h"

namespace quire {

/// Radians per position of each pair of rotated components: dim / 2 values, fastest first.
///
/// `length`: tokens of the sequence; only dynamic scaling (beyond original_max_positions the base grows with it) and
/// longrope (its long factors serve beyond original_max_positions) look at it. Range: >= 1.
/// Source: transformers/modeling_rope_utils.py, computed in double where that computes in float32.
std::vector<double> rope_inverse_frequencies(const Rope& rope, int64_t length);

/// What cosines and sines are multiplied by; 1 but for yarn and longrope. Source: as above.
double rope_attention_factor(const Rope& rope);

}  // namespace quire
