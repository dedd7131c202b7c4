#include "backend/cpu/sample_edits.h"

#include <algorithm>
#include <limits>

namespace quire::cpu {

LogitEdits::LogitEdits(float* logits, int64_t vocabulary, const Memory& memory)
    : logits_(logits), vocabulary_(vocabulary), memory_(memory) {}

bool LogitEdits::apply(const SampleRow& row, const SampleLists& lists) {
  const bool repetition = row.repetition_penalty != 1.0f;
  const bool output = (row.frequency_penalty != 0.0f || row.presence_penalty != 0.0f) && !lists.output_ids.empty();
  if (lists.biases.empty() && lists.masked_ids.empty() && !repetition && !output) return true;
  std::fill_n(memory_.bits, bits_words(vocabulary_), uint64_t{0});
  for (const auto& [id, bias] : lists.biases) touch(id) += bias;
  for (const int32_t id : lists.masked_ids) touch(id) = -std::numeric_limits<float>::infinity();
  if (repetition) penalize_repetition(row.repetition_penalty, lists);
  if (output) penalize_output(row, lists);
  return finite_;
}

void LogitEdits::undo() {
  for (int64_t i = 0; i < num_saved_; ++i) logits_[memory_.saved[i].id] = memory_.saved[i].logit;
  num_saved_ = 0;
}

/// The logit to be changed; the first time its old value is kept.
float& LogitEdits::touch(int32_t id) {
  float& logit = logits_[id];
  if (first_time(memory_.bits, id)) {
    memory_.saved[num_saved_++] = {.id = id, .logit = logit};
    finite_ = finite_ && logit < std::numeric_limits<float>::infinity();
  }
  return logit;
}

bool LogitEdits::first_time(uint64_t* bits, int32_t id) {
  const uint64_t bit = uint64_t{1} << (id % 64);
  const bool first = (bits[id / 64] & bit) == 0;
  bits[id / 64] |= bit;
  return first;
}

void LogitEdits::penalize_repetition(float penalty, const SampleLists& lists) {
  uint64_t* const penalized = memory_.bits + bits_words(vocabulary_) / 2;
  for (const auto ids : {lists.prompt_ids, lists.output_ids}) {
    for (const int32_t id : ids) {
      if (!first_time(penalized, id)) continue;
      float& logit = touch(id);
      logit = logit > 0.0f ? logit / penalty : logit * penalty;
    }
  }
}

void LogitEdits::penalize_output(const SampleRow& row, const SampleLists& lists) {
  for (const int32_t id : lists.output_ids) memory_.counts[id] = 0;
  for (const int32_t id : lists.output_ids) ++memory_.counts[id];
  for (const int32_t id : lists.output_ids) {
    int32_t& count = memory_.counts[id];
    if (count == 0) continue;  // done at its first occurrence
    float& logit = touch(id);
    logit -= row.frequency_penalty * static_cast<float>(count);
    logit -= row.presence_penalty;
    count = 0;
  }
}

}  // namespace quire::cpu
