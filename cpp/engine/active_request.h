#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/finish.h"
#include "engine/queue.h"
#include "quire/vocabulary.h"
#include "runtime/sampler.h"
#include "runtime/step_outputs.h"
#include "sched/step_plan.h"
#include "text/output_text.h"

namespace quire {

/// What every request of an engine shares.
struct RequestContext {
  std::shared_ptr<const Vocabulary> vocabulary;  ///< null: outputs carry no text
  std::vector<int32_t> eos_ids;
  int32_t max_model_len = 0;
  LogprobsMode logprobs_mode = LogprobsMode::kProcessed;
  int64_t seed = 0;
};

/// A request while it waits or runs: what its tokens have become so far and what its caller has not been told yet.
/// Knows nothing of KV blocks and steps. Lives on the engine thread.
class ActiveRequest {
 public:
  /// `context` must outlive the request. Its sequences are numbered from `first_sequence` on.
  ActiveRequest(Submission submission, const RequestContext& context, SequenceId first_sequence);

  RequestId id() const { return submission_.id; }
  const Request& request() const { return submission_.request; }
  const OutputCallback& callback() const { return submission_.callback; }
  int32_t num_sequences() const { return static_cast<int32_t>(sequences_.size()); }
  SequenceId sequence_id(int32_t index) const { return first_sequence_ + index; }

  /// A step has planned the request's prompt, of which `num_cached` tokens came from the prefix cache.
  void mark_scheduled(double now, int32_t num_cached);

  /// First prompt position whose log-probabilities are asked for and no step computes yet; the prompt's length if none
  /// is.
  int32_t next_prompt_position() const { return next_prompt_position_; }
  /// Ask for those of next_prompt_position(), which moves on.
  SampleRow next_prompt_row();
  void add_prompt_logprobs(const SampleResult& result);

  /// `tokens`: prompt and output of the sequence `index`. Lists go to `batch`.
  SampleRow next_row(int32_t index, std::span<const int32_t> tokens, SampleBatch& batch) const;

  /// Whether a sequence ends when it has so many tokens, prompt and output, whatever they are.
  bool ends_at(int32_t num_tokens) const;

  /// Take a sampled token. Returns whether the sequence has ended with it.
  bool append(int32_t index, const SampleResult& result, double now);

  bool finished() const { return num_running_ == 0; }

  /// End all sequences that still run; `error` is empty but for kError.
  void end(FinishReason reason, const std::string& error, double now);

  /// Whether the caller is to be told something now; never again after the output that says finished.
  bool has_output() const;
  Output take_output();

 private:
  struct State {
    SequenceOutput pending;          ///< not handed out yet
    std::optional<OutputText> text;  ///< none without a vocabulary
    FinishReason reason = FinishReason::kNone;
    int32_t num_tokens = 0;
    double cumulative_logprob = 0.0;
    bool changed = false;
  };

  PositionLogprobs candidates_of(const SampleResult& result) const;
  bool append_text(State& state, int32_t token, const TokenVerdict& verdict);
  void end_sequence(State& state, FinishReason reason, double now);

  const RequestContext& context_;
  Submission submission_;
  SequenceId first_sequence_;
  FinishRules rules_;
  uint64_t seed_ = 0;
  std::vector<int32_t> end_ids_;
  std::vector<State> sequences_;
  int32_t num_running_ = 0;
  int32_t next_prompt_position_ = 1;
  std::vector<PositionLogprobs> prompt_logprobs_;
  bool prompt_logprobs_sent_ = false;
  bool final_output_taken_ = false;
  std::string error_;
  int32_t num_cached_tokens_ = 0;
  RequestMetrics metrics_;
};

}  // namespace quire
