#include "engine/finish.h"

#include <algorithm>

namespace quire {
namespace {

bool contains(std::span<const int32_t> ids, int32_t token) {
  return std::find(ids.begin(), ids.end(), token) != ids.end();
}

}  // namespace

bool reaches_length(const FinishRules& rules, int32_t num_tokens, int32_t num_output_tokens) {
  return num_tokens >= rules.max_model_len || num_output_tokens >= rules.max_tokens;
}

TokenVerdict judge_token(const FinishRules& rules, int32_t token, int32_t num_tokens, int32_t num_output_tokens) {
  if (reaches_length(rules, num_tokens, num_output_tokens)) return {FinishReason::kLength};
  if (num_output_tokens < rules.min_tokens) return {};
  if (contains(rules.stop_ids, token)) return {FinishReason::kStop, true};
  if (contains(rules.eos_ids, token)) return {FinishReason::kStop};
  return {};
}

}  // namespace quire
