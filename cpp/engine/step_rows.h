#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/active_request.h"
#include "runtime/sampler.h"
#include "sched/sequence.h"
#include "sched/step_plan.h"

namespace quire {

/// One sequence's share of a step. It may outlive the sequence, and the request: what ends while a step is on its way
/// is not looked for in the step's results any more.
struct StepEntry {
  SequenceId sequence = 0;
  /// Tokens drawn from its last row: 0 in the middle of a prompt, 1 as a rule, n where the prompt of a request with n
  /// sequences ends; they are for this sequence and those numbered after it.
  int32_t num_samples = 0;

  // Set when the results are there.
  ActiveRequest* request = nullptr;  ///< whose it is; null if it has ended
  bool poisoned = false;             ///< a row of it was not finite
};

/// What a step is for: who takes part, which rows of its tokens become logits, and what each row is for. Kept from step
/// to step, so that a steady state allocates nothing.
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

  /// Add a sequence's share, which belongs to `request`'s sequence `index`.
  void add(const PlannedSequence& planned, const Sequence& sequence, ActiveRequest& request, int32_t index);

  const SampleBatch& samples() const { return samples_; }
  std::span<StepEntry> entries() { return entries_; }
  /// By row.
  std::span<const Use> uses() const { return uses_; }

 private:
  void push(int32_t token_row, const SampleRow& row, const Use& use);

  std::vector<StepEntry> entries_;
  SampleBatch samples_;
  std::vector<Use> uses_;
  int32_t num_tokens_ = 0;
};

}  // namespace quire
