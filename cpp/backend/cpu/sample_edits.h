#pragma once

#include <cstdint>
#include <span>

#include "backend/ops/sample.h"

namespace quire::cpu {

/// The lists that a row names, as spans.
struct SampleLists {
  std::span<const int32_t> prompt_ids;
  std::span<const int32_t> output_ids;
  std::span<const int32_t> masked_ids;
  std::span<const TokenBias> biases;

  SampleLists(const SampleRow& row, const int32_t* ids, const TokenBias* all_biases) {
    if (row.num_prompt_ids + row.num_output_ids + row.num_masked_ids > 0) {
      prompt_ids = {ids + row.first_id, static_cast<size_t>(row.num_prompt_ids)};
      output_ids = {prompt_ids.data() + row.num_prompt_ids, static_cast<size_t>(row.num_output_ids)};
      masked_ids = {output_ids.data() + row.num_output_ids, static_cast<size_t>(row.num_masked_ids)};
    }
    if (row.num_biases > 0) biases = {all_biases + row.first_bias, static_cast<size_t>(row.num_biases)};
  }
};

/// Changes of single logits: bias, mask and penalties. They can be taken back, for those who ask for the model's own
/// log-probabilities. Works in memory that it is given; nothing of it needs to be set before.
class LogitEdits {
 public:
  struct Saved {
    int32_t id = 0;
    float logit = 0.0f;
  };
  /// For a vocabulary of V tokens.
  struct Memory {
    uint64_t* bits = nullptr;   ///< [bits_words(V)]
    int32_t* counts = nullptr;  ///< [V]
    Saved* saved = nullptr;     ///< [V]
  };

  static int64_t bits_words(int64_t vocabulary) { return 2 * ((vocabulary + 63) / 64); }

  LogitEdits(float* logits, int64_t vocabulary, const Memory& memory);

  /// False if a logit that was changed had been NaN or plus infinity.
  bool apply(const SampleRow& row, const SampleLists& lists);

  void undo();

  bool empty() const { return num_saved_ == 0; }

 private:
  float& touch(int32_t id);
  bool first_time(uint64_t* bits, int32_t id);
  void penalize_repetition(float penalty, const SampleLists& lists);
  void penalize_output(const SampleRow& row, const SampleLists& lists);

  float* logits_;
  int64_t vocabulary_;
  Memory memory_;
  int64_t num_saved_ = 0;
  bool finite_ = true;
};

}  // namespace quire::cpu
