#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "spec/spec.h"

namespace quire {

/// Radians per position of each pair of rotated components: dim / 2 values, fastest first.
///
/// `length`: tokens of the sequence; only dynamic scaling (beyond original_max_positions the base grows with it, with
/// Qwen's at each doubling) and longrope (its long factors serve beyond original_max_positions) look at it. Range:
/// >= 1. Source: transformers/modeling_rope_utils.py, computed in double where that computes in float32.
std::vector<double> rope_inverse_frequencies(const Rope& rope, int64_t length);

// Longrope and Qwen's dynamic scaling have more than one set of angles, and all keys of a sequence must be of one set.
// Which one is given by the sequence's length: a function of the request alone, so that batching, chunking and the
// prefix cache cannot show.

/// Sets of angles of a model for sequences of up to `max_model_len` tokens; 1 but for those two.
int32_t num_rope_sets(const ModelSpec& spec, int32_t max_model_len);

/// The set for a sequence of so many tokens.
int32_t rope_set(const ModelSpec& spec, int64_t length);

/// A length for which rope_inverse_frequencies() gives the angles of a set.
int64_t rope_set_length(const Rope& rope, int32_t set);

/// Longest sequence that may grow without a change of its set, however long its prompt was; beyond it everything is
/// computed again in the next set. Empty if a prompt's set stays to the end.
std::optional<int32_t> rope_recompute_length(const ModelSpec& spec);

/// What cosines and sines are multiplied by; 1 but for yarn and longrope. Source: as above.
double rope_attention_factor(const Rope& rope);

}  // namespace quire
