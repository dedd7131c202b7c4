#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "quire/sampling.h"

namespace quire {

/// Number given by Engine::submit; never used twice by one engine.
using RequestId = uint64_t;

/// Why a sequence ended.
enum class FinishReason {
  kNone,    ///< still running
  kStop,    ///< stop string, stop id or end-of-text token
  kLength,  ///< max_tokens or max_model_len
  kAbort,   ///< cancelled
  kError,   ///< see Output::error
};

/// When the callback is called, and with what.
enum class OutputKind {
  kDelta,      ///< after every step that adds something; fields hold what is new since the last call
  kFinalOnly,  ///< once, with everything
};

/// One unit of work.
struct Request {
  /// Ids to start from, used as they are. Range of each: [0, vocabulary); length: [1, max_model_len).
  std::vector<int32_t> prompt_token_ids;
  SamplingParams sampling;
  OutputKind output_kind = OutputKind::kFinalOnly;
};

/// One candidate's log-probability at one position.
struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0.0f;
  /// 1 for the most likely token.
  int32_t rank = 0;
  /// The token's own text; empty without a vocabulary.
  std::string decoded_token;
};

/// The candidates at one position: the chosen token first, then the best ones in falling order.
using PositionLogprobs = std::vector<TokenLogprob>;

/// One completion, or what is new of it.
struct SequenceOutput {
  /// 0 .. n-1.
  int32_t index = 0;
  std::string text;
  std::vector<int32_t> token_ids;
  /// One per token id if asked for, else empty.
  std::vector<PositionLogprobs> logprobs;
  /// Sum over all tokens so far, not only the new ones.
  double cumulative_logprob = 0.0;
  FinishReason finish_reason = FinishReason::kNone;
  /// The stop string or stop id that ended the sequence; empty for end of text.
  std::variant<std::monostate, std::string, int32_t> stop_reason;
};

/// Seconds on the steady clock of Engine::now().
struct RequestMetrics {
  double arrival_time = 0.0;
  std::optional<double> first_scheduled_time;
  std::optional<double> first_token_time;
  std::optional<double> last_token_time;
  std::optional<double> finished_time;
};

/// What a callback receives.
struct Output {
  RequestId request_id = 0;
  /// Sequences with something new (kDelta) or all of them (kFinalOnly).
  std::vector<SequenceOutput> sequences;
  /// One entry per prompt token if asked for: the first is empty. Sent once, with the first output.
  std::vector<PositionLogprobs> prompt_logprobs;
  /// No further call will come for this request.
  bool finished = false;
  /// One line, when a sequence ended with kError.
  std::string error;
  /// Prompt tokens whose KV came from the prefix cache.
  int32_t num_cached_tokens = 0;
  RequestMetrics metrics;
};

/// Called on the engine thread, so it must be quick and must not call Engine::close. An exception that leaves it
/// cancels the request.
using OutputCallback = std::function<void(Output&&)>;

}  // namespace quire
