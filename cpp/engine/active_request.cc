#include "engine/active_request.h"

#include <limits>
#include <utility>

namespace quire {

ActiveRequest::ActiveRequest(Submission submission, const RequestContext& context, SequenceId first_sequence)
    : context_(context), submission_(std::move(submission)), first_sequence_(first_sequence) {
  const SamplingParams& params = request().sampling;
  rules_ = {.max_model_len = context.max_model_len,
            .max_tokens = params.max_tokens.value_or(std::numeric_limits<int32_t>::max()),
            .min_tokens = params.min_tokens,
            .stop_ids = params.stop_token_ids,
            .eos_ids = params.ignore_eos ? std::span<const int32_t>() : std::span<const int32_t>(context.eos_ids)};
  seed_ = params.seed ? static_cast<uint64_t>(*params.seed) : derive_seed(context.seed, id());
  end_ids_ = context.eos_ids;
  end_ids_.insert(end_ids_.end(), params.stop_token_ids.begin(), params.stop_token_ids.end());
  num_running_ = params.n;
  sequences_.resize(params.n);
  for (int32_t index = 0; index < params.n; ++index) {
    State& state = sequences_[index];
    state.pending.index = index;
    if (context.vocabulary) {
      const std::span<const int32_t> behind = request().prompt_token_ids;
      state.text.emplace(*context.vocabulary, params.text_continues_prompt ? behind : behind.first(0),
                         params.skip_special_tokens, params.stop, params.include_stop_str_in_output);
    }
  }
  if (params.prompt_logprobs) {
    prompt_logprobs_.reserve(request().prompt_token_ids.size());
    prompt_logprobs_.emplace_back();
  } else {
    next_prompt_position_ = static_cast<int32_t>(request().prompt_token_ids.size());
  }
  metrics_.arrival_time = submission_.arrival_time;
}

void ActiveRequest::mark_scheduled(double now, int32_t num_cached) {
  if (metrics_.first_scheduled_time) return;
  metrics_.first_scheduled_time = now;
  num_cached_tokens_ = num_cached;
}

SampleRow ActiveRequest::next_prompt_row() {
  const int32_t token = request().prompt_token_ids[next_prompt_position_++];
  return prompt_token_row(request().sampling, token, context_.logprobs_mode);
}

void ActiveRequest::add_prompt_logprobs(const SampleResult& result) {
  prompt_logprobs_.push_back(candidates_of(result));
}

SampleRow ActiveRequest::next_row(int32_t index, std::span<const int32_t> tokens, SampleBatch& batch) const {
  return next_token_row({.params = request().sampling,
                         .tokens = tokens,
                         .num_prompt_tokens = static_cast<int32_t>(request().prompt_token_ids.size()),
                         .end_ids = end_ids_,
                         .seed = seed_,
                         .index = static_cast<uint32_t>(index)},
                        context_.logprobs_mode, batch);
}

bool ActiveRequest::ends_at(int32_t num_tokens) const {
  return reaches_length(rules_, num_tokens, num_tokens - static_cast<int32_t>(request().prompt_token_ids.size()));
}

PositionLogprobs ActiveRequest::candidates_of(const SampleResult& result) const {
  PositionLogprobs position;
  position.reserve(result.candidates.size());
  for (const SampledCandidate& candidate : result.candidates) {
    position.push_back({.token_id = candidate.token, .logprob = candidate.logprob, .rank = candidate.rank});
    if (context_.vocabulary) position.back().decoded_token = context_.vocabulary->token_text(candidate.token);
  }
  return position;
}

bool ActiveRequest::append(int32_t index, const SampleResult& result, double now) {
  State& state = sequences_[index];
  ++state.num_tokens;
  state.changed = true;
  state.cumulative_logprob += result.logprob;
  state.pending.token_ids.push_back(result.token);
  if (request().sampling.logprobs) state.pending.logprobs.push_back(candidates_of(result));
  if (!metrics_.first_token_time) metrics_.first_token_time = now;
  metrics_.last_token_time = now;

  const auto num_prompt_tokens = static_cast<int32_t>(request().prompt_token_ids.size());
  const TokenVerdict verdict =
      judge_token(rules_, result.token, num_prompt_tokens + state.num_tokens, state.num_tokens);
  FinishReason reason = verdict.reason;
  if (verdict.by_stop_id) state.pending.stop_reason = result.token;
  if (append_text(state, result.token, verdict) && reason != FinishReason::kLength) reason = FinishReason::kStop;
  if (reason != FinishReason::kNone) end_sequence(state, reason, now);
  return reason != FinishReason::kNone;
}

/// Returns whether a stop string has ended the text. It does so even in a step in which the length ends the sequence:
/// no text ever shows a stop string that it should not.
bool ActiveRequest::append_text(State& state, int32_t token, const TokenVerdict& verdict) {
  if (!state.text) return false;
  const SamplingParams& params = request().sampling;
  std::string& text = state.pending.text;
  if (!verdict.by_stop_id || params.include_stop_str_in_output) {
    const auto stop = state.text->append(token, state.num_tokens >= params.min_tokens, text);
    if (stop) {
      if (verdict.reason != FinishReason::kLength) state.pending.stop_reason = params.stop[*stop];
      return true;
    }
  }
  if (verdict.reason != FinishReason::kNone) state.text->finish(text);
  return false;
}

void ActiveRequest::end_sequence(State& state, FinishReason reason, double now) {
  state.reason = reason;
  state.pending.finish_reason = reason;
  state.changed = true;
  --num_running_;
  if (finished()) metrics_.finished_time = now;
}

void ActiveRequest::end(FinishReason reason, const std::string& error, double now) {
  error_ = error;
  for (State& state : sequences_) {
    if (state.reason != FinishReason::kNone) continue;
    if (state.text) state.text->finish(state.pending.text);
    end_sequence(state, reason, now);
  }
}

bool ActiveRequest::has_output() const {
  if (finished()) return !final_output_taken_;
  if (request().output_kind == OutputKind::kFinalOnly) return false;
  for (const State& state : sequences_) {
    if (state.changed) return true;
  }
  return false;
}

Output ActiveRequest::take_output() {
  Output output;
  output.request_id = id();
  for (State& state : sequences_) {
    if (!state.changed && request().output_kind == OutputKind::kDelta) continue;
    state.pending.cumulative_logprob = state.cumulative_logprob;
    output.sequences.push_back(std::move(state.pending));
    state.pending = {.index = output.sequences.back().index};
    state.changed = false;
  }
  if (!prompt_logprobs_sent_) output.prompt_logprobs = std::move(prompt_logprobs_);
  prompt_logprobs_sent_ = true;
  output.finished = finished();
  final_output_taken_ = output.finished;
  output.error = error_;
  output.num_cached_tokens = num_cached_tokens_;
  output.metrics = metrics_;
  return output;
}

}  // namespace quire
