#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "backend/backend.h"
#include "core/buffer.h"

namespace quire {

/// What a row of logits has become.
struct SampleResult {
  int32_t token = 0;
  float logprob = 0.0f;
  bool finite = true;
  std::span<const SampledCandidate> candidates;  ///< the chosen token first; none unless asked for
};

/// The results of one step, in memory of the host that the next step but one uses again.
class StepResults {
 public:
  StepResults() = default;
  StepResults(std::span<const SampledToken> tokens, const SampledCandidate* candidates, int32_t max_candidates)
      : tokens_(tokens), candidates_(candidates), max_candidates_(max_candidates) {}

  int32_t size() const { return static_cast<int32_t>(tokens_.size()); }
  SampleResult operator[](int32_t row) const;

  /// Whether another rank has chosen the same tokens.
  bool same_tokens(const StepResults& other) const;

 private:
  std::span<const SampledToken> tokens_;
  const SampledCandidate* candidates_ = nullptr;  ///< null: no row has asked for any
  int32_t max_candidates_ = 0;
};

/// Where steps leave what they have sampled, on the device, and its way to the host. The device's memory is one for
/// all steps: a step resolves tokens of the one before it ahead of writing its own.
class StepOutputs {
 public:
  /// `max_candidates`: of one row, the chosen token included.
  StepOutputs(Backend& backend, int32_t max_rows, int32_t max_candidates);

  static int64_t bytes(int32_t max_rows, int32_t max_candidates);

  SampledToken* tokens() const { return static_cast<SampledToken*>(device_.data()); }
  SampledCandidate* candidates() const;
  int32_t max_candidates() const { return max_candidates_; }

  /// Enqueue the copy of a step's results, which its stream has just been given to compute. At most two steps are on
  /// their way at a time.
  void fetch(int32_t num_rows, bool with_candidates, Stream& stream);

  int32_t num_in_flight() const { return num_in_flight_; }

  /// Wait for the oldest step on its way. It is on its way no more, even if waiting raises.
  StepResults wait();

 private:
  struct Fetch {
    Buffer host;
    std::unique_ptr<Event> arrived;
    int32_t num_rows = 0;
    bool with_candidates = false;
  };

  Backend& backend_;
  int32_t max_rows_;
  int32_t max_candidates_;
  Buffer device_;
  std::array<Fetch, 2> fetches_;  ///< in rotation
  uint32_t next_ = 0;
  int32_t num_in_flight_ = 0;
};

}  // namespace quire
