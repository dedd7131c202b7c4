#pragma once

#include <cstdint>
#include <span>

#include "quire/request.h"

namespace quire {

/// What ends a sequence, beside stop strings. Spans belong to the request.
struct FinishRules {
  int32_t max_model_len = 0;
  int32_t max_tokens = 0;  ///< no limit is INT32_MAX
  int32_t min_tokens = 0;
  std::span<const int32_t> stop_ids;
  std::span<const int32_t> eos_ids;  ///< empty if they are ignored
};

/// Whether a sequence of so many tokens, of which `num_output_tokens` are output, has reached its length: known before
/// the last token is.
bool reaches_length(const FinishRules& rules, int32_t num_tokens, int32_t num_output_tokens);

/// Why a token ends its sequence by its id or by the length reached; kNone if it does not. The order is vLLM 0.4.0's:
/// max_model_len, max_tokens, then, from min_tokens on, stop ids and end of text. Stop strings stand before stop ids
/// there; here a stop id's text is no part of the output, so that no stop string can end in it.
struct TokenVerdict {
  FinishReason reason = FinishReason::kNone;
  bool by_stop_id = false;
};

/// `num_tokens`: prompt and output, `num_output_tokens`: output, both with `token` counted.
TokenVerdict judge_token(const FinishRules& rules, int32_t token, int32_t num_tokens, int32_t num_output_tokens);

}  // namespace quire
