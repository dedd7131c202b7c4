#include "engine/request_check.h"

#include <optional>

#include "core/check.h"

namespace quire {
namespace {

void check_prompt(const std::vector<int32_t>& prompt, const RequestLimits& limits) {
  QUIRE_REQUIRE(!prompt.empty(), ErrorKind::kInvalidArgument, "[request] the prompt is empty: prompt_token_ids=[]");
  QUIRE_REQUIRE(prompt.size() < static_cast<size_t>(limits.max_model_len), ErrorKind::kInvalidArgument,
                "[request] prompt is longer than max_model_len allows: len(prompt_token_ids)=", prompt.size(),
                ", expected=at most ", limits.max_model_len - 1, " (max_model_len=", limits.max_model_len,
                ", with one token of output)");
  for (size_t i = 0; i < prompt.size(); ++i) {
    QUIRE_REQUIRE(prompt[i] >= 0 && prompt[i] < limits.vocab_size, ErrorKind::kInvalidArgument,
                  "[request] token id out of the vocabulary: prompt_token_ids[", i, "]=", prompt[i], ", expected=[0, ",
                  limits.vocab_size, ")");
  }
}

void check_ids(const SamplingParams& params, int32_t vocab_size) {
  for (const int32_t id : params.stop_token_ids) {
    QUIRE_REQUIRE(id >= 0 && id < vocab_size, ErrorKind::kInvalidArgument,
                  "[request] token id out of the vocabulary: stop_token_ids=", id, ", expected=[0, ", vocab_size, ")");
  }
  for (const auto& [id, bias] : params.logit_bias) {
    QUIRE_REQUIRE(id >= 0 && id < vocab_size, ErrorKind::kInvalidArgument,
                  "[request] token id out of the vocabulary: logit_bias=", id, ", expected=[0, ", vocab_size, ")");
  }
}

void check_logprobs(const char* field, const std::optional<int32_t>& asked, int32_t max_logprobs) {
  QUIRE_REQUIRE(asked.value_or(0) <= max_logprobs, ErrorKind::kInvalidArgument, "[request] too many asked for: ", field,
                "=", asked.value_or(0), ", expected=at most max_logprobs=", max_logprobs);
}

}  // namespace

void check_request(const Request& request, const RequestLimits& limits) {
  const SamplingParams& params = request.sampling;
  params.validate();
  check_prompt(request.prompt_token_ids, limits);
  check_ids(params, limits.vocab_size);
  check_logprobs("logprobs", params.logprobs, limits.max_logprobs);
  check_logprobs("prompt_logprobs", params.prompt_logprobs, limits.max_logprobs);
  QUIRE_REQUIRE(params.n <= limits.max_num_seqs, ErrorKind::kInvalidArgument,
                "[request] more completions than sequences in a step: n=", params.n,
                ", expected=at most max_num_seqs=", limits.max_num_seqs);
  QUIRE_REQUIRE(params.stop.empty() || limits.has_vocabulary, ErrorKind::kInvalidArgument,
                "[request] stop strings need a vocabulary: with_vocabulary=false, len(stop)=", params.stop.size());
}

}  // namespace quire
