#include "engine/step_rows.h"

#include <algorithm>

namespace quire {

void StepRows::clear() {
  entries_.clear();
  samples_.clear();
  uses_.clear();
  num_tokens_ = 0;
}

void StepRows::push(int32_t token_row, const SampleRow& row, const Use& use) {
  samples_.add(token_row, row);
  uses_.push_back(use);
}

void StepRows::add(const PlannedSequence& planned, const Sequence& sequence, ActiveRequest& request, int32_t index) {
  const auto entry_number = static_cast<int32_t>(entries_.size());
  const int32_t first_row = num_tokens_;
  const int32_t last_row = first_row + planned.num_tokens - 1;
  const int32_t end = planned.start + planned.num_tokens;
  StepEntry entry{.sequence = planned.id};
  if (planned.samples) {
    entry.num_samples = sequence.num_tokens() == sequence.num_prompt_tokens ? request.num_sequences() : 1;
  }

  // The row of position p tells about the token at p + 1. After a preemption some are there already.
  const int32_t prompt_end = std::min(end + 1, sequence.num_prompt_tokens);
  while (request.next_prompt_position() < prompt_end) {
    const int32_t token_row = first_row + request.next_prompt_position() - 1 - planned.start;
    push(token_row, request.next_prompt_row(), {.kind = Use::Kind::kPromptLogprobs, .entry = entry_number});
  }
  for (int32_t i = 0; i < entry.num_samples; ++i) {
    push(last_row, request.next_row(index + i, sequence.tokens, samples_),
         {.kind = Use::Kind::kNextToken, .entry = entry_number, .index = index + i});
  }
  if (samples_.token_rows.empty() || samples_.token_rows.back() != last_row) {
    push(last_row, finiteness_row(), {.kind = Use::Kind::kCheck, .entry = entry_number});
  }
  entries_.push_back(entry);
  num_tokens_ += planned.num_tokens;
}

}  // namespace quire
