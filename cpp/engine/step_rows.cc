#include "engine/step_rows.h"

#include <algorithm>

namespace quire {

void StepRows::clear() {
  rows_.clear();
  how_.clear();
  uses_.clear();
}

void StepRows::push(int32_t row, const SampleRow& how, const Use& use) {
  rows_.push_back(row);
  how_.push_back(how);
  uses_.push_back(use);
}

void StepRows::add(const StepEntry& entry, int32_t entry_number, const Sequence& sequence, int32_t first_row) {
  const PlannedSequence& planned = entry.planned;
  const int32_t last_row = first_row + planned.num_tokens - 1;
  const int32_t end = planned.start + planned.num_tokens;

  // The row of position p tells about the token at p + 1. After a preemption some are there already.
  const int32_t prompt_end = std::min(end + 1, sequence.num_prompt_tokens);
  int32_t position = std::max(planned.start + 1, entry.request->next_prompt_position());
  for (; position < prompt_end; ++position) {
    push(first_row + position - 1 - planned.start, entry.request->prompt_row(position),
         {.kind = Use::Kind::kPromptLogprobs, .entry = entry_number});
  }
  for (int32_t i = 0; i < entry.num_samples; ++i) {
    const int32_t index = entry.index + i;
    push(last_row, entry.request->next_row(index, sequence.tokens),
         {.kind = Use::Kind::kNextToken, .entry = entry_number, .index = index});
  }
  if (rows_.empty() || rows_.back() != last_row) {
    push(last_row, finiteness_row(), {.kind = Use::Kind::kCheck, .entry = entry_number});
  }
}

std::span<SampleResult> StepRows::results() {
  // Never shrinks, so that the candidates' memory is reused.
  if (results_.size() < rows_.size()) results_.resize(rows_.size());
  return std::span(results_).first(rows_.size());
}

}  // namespace quire
