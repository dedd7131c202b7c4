#pragma once

#include <cstdint>

#include "backend/ops/sample.h"

namespace quire::cpu {

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
  bool apply(const SampleRow& row);

  void undo();

  bool empty() const { return num_saved_ == 0; }

 private:
  float& touch(int32_t id);
  bool first_time(uint64_t* bits, int32_t id);
  void penalize_repetition(const SampleRow& row);
  void penalize_output(const SampleRow& row);

  float* logits_;
  int64_t vocabulary_;
  Memory memory_;
  int64_t num_saved_ = 0;
  bool finite_ = true;
};

}  // namespace quire::cpu
