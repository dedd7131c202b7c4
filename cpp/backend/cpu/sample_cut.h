#pragma once

#include <cstdint>
#include <span>

#include "backend/ops/sample.h"

namespace quire::cpu {

/// A token that may be kept, with its weight relative to the best token's.
struct Candidate {
  int32_t id = 0;
  float logit = 0.0f;
  float weight = 0.0f;
};

/// The order in which tokens are kept: larger logit first, smaller id first among equals.
inline bool better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// Move the best `count` to the front, in no order. Linear time.
void select_best(std::span<Candidate> candidates, int64_t count);

/// The least number of best candidates whose weights sum to at least `mass`, moved to the front in no order; all if
/// there is not that much. Linear time. `candidates` not empty; returns >= 1.
int64_t select_mass(std::span<Candidate> candidates, double mass);

double total_weight(std::span<const Candidate> candidates);

/// top_k (0: none), top_p and min_p over candidates that hold at least every token these keep; what is kept moves to
/// the front, in no order. `row_total`: sum of weights of the whole row, of which top_p is a share where there is no
/// top_k. Returns how many are kept, >= 1.
int64_t cut_candidates(std::span<Candidate> candidates, const SampleRow& row, int64_t top_k, double row_total);

}  // namespace quire::cpu
