#include "backend/cpu/sample_cut.h"

#include <algorithm>

namespace quire::cpu {

void select_best(std::span<Candidate> candidates, int64_t count) {
  if (count >= static_cast<int64_t>(candidates.size())) return;
  std::nth_element(candidates.begin(), candidates.begin() + count, candidates.end(), better);
}

double total_weight(std::span<const Candidate> candidates) {
  double total = 0.0;
  for (const Candidate& candidate : candidates) total += candidate.weight;
  return total;
}

int64_t select_mass(std::span<Candidate> candidates, double mass) {
  // All before `low` is kept and weighs `kept`; all from `high` on is dropped.
  int64_t low = 0;
  int64_t high = static_cast<int64_t>(candidates.size());
  double kept = 0.0;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    std::nth_element(candidates.begin() + low, candidates.begin() + middle, candidates.begin() + high, better);
    const double half = total_weight(candidates.subspan(static_cast<size_t>(low), static_cast<size_t>(middle - low)));
    if (kept + half >= mass) {
      high = middle;
    } else {
      kept += half;
      low = middle;
    }
  }
  return high;
}

int64_t cut_candidates(std::span<Candidate> candidates, const SampleRow& row, int64_t top_k, double row_total) {
  double total = row_total;
  if (top_k > 0) {
    select_best(candidates, top_k);
    candidates = candidates.first(std::min(candidates.size(), static_cast<size_t>(top_k)));
    total = total_weight(candidates);
  }
  if (row.top_p < 1.0f) {
    candidates = candidates.first(static_cast<size_t>(select_mass(candidates, row.top_p * total)));
  }
  if (row.min_p > 0.0f) {
    // The best token's weight is 1, so that at least it is kept.
    const auto kept = [&](const Candidate& candidate) { return candidate.weight >= row.min_p; };
    const auto end = std::partition(candidates.begin(), candidates.end(), kept);
    candidates = candidates.first(static_cast<size_t>(end - candidates.begin()));
  }
  return static_cast<int64_t>(candidates.size());
}

}  // namespace quire::cpu
