#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/active_request.h"
#include "runtime/sampler.h"
#include "sched/sequence.h"
#include "sched/step_plan.h"

namespace quire {

/// One sequence's share of a step, and whose it is.
struct StepEntry {
  ActiveRequest* request = nullptr;
  int32_t index = 0;  ///< which of the request's n
  PlannedSequence planned;
  /// Tokens drawn from its last row: 0 in the middle of a prompt, 1 as a rule, n where the prompt of a request with n
  /// sequences ends; they are for the sequences index, index + 1, ...
  int32_t num_samples = 0;
  bool poisoned = false;  ///< a row of it was not finite
};

/// Which rows of a step's tokens become logits, and what each of them is for. Kept from step to step, so that a steady
/// state allocates nothing.
class StepRows {
 public:
  struct Use {
    enum class Kind {
      kNextToken,
      kPromptLogprobs,
      kCheck,  ///< only whether it is finite: a prompt's chunk that samples nothing must not reach the cache with NaN
    };
    Kind kind = Kind::kCheck;
    int32_t entry = 0;  ///< number of the entry
    int32_t index = 0;  ///< which of the request's n is to get the token
  };

  void clear();

  /// Add what the entry wants. `first_row`: its first token in the step.
  void add(const StepEntry& entry, int32_t entry_number, const Sequence& sequence, int32_t first_row);

  std::span<const int32_t> rows() const { return rows_; }
  std::span<const SampleRow> how() const { return how_; }
  std::span<const Use> uses() const { return uses_; }
  /// As many as rows; what they hold is the sampler's.
  std::span<SampleResult> results();

 private:
  void push(int32_t row, const SampleRow& how, const Use& use);

  std::vector<int32_t> rows_;
  std::vector<SampleRow> how_;
  std::vector<Use> uses_;
  std::vector<SampleResult> results_;
};

}  // namespace quire
