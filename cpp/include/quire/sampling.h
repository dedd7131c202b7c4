#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quire {

/// How one request's tokens are chosen. Names, defaults and ranges are those of vLLM 0.4.0.
///
/// Order of application to a row of logits: logit_bias, min_tokens mask, repetition, frequency and presence penalty,
/// temperature, top_k, top_p, min_p, softmax, draw. A draw is a pure function of (seed, sequence index, position), so
/// it never depends on other requests.
struct SamplingParams {
  /// Number of completions returned for the prompt. Range: [1, 128], at most EngineConfig::max_num_seqs.
  int32_t n = 1;
  /// Subtracted once from the logit of every token already generated. Range: [-2, 2].
  float presence_penalty = 0.0f;
  /// Subtracted per occurrence from the logit of every token already generated. Range: [-2, 2].
  float frequency_penalty = 0.0f;
  /// Divides positive and multiplies negative logits of tokens seen in prompt or output. Range: (0, 2].
  /// Source: Keskar et al., arXiv:1909.05858, section 4.1.
  float repetition_penalty = 1.0f;
  /// Divides the logits. Range: >= 0, finite; below 1e-5 the best token is taken and top_k, top_p, min_p have no
  /// effect.
  float temperature = 1.0f;
  /// Probability mass kept by nucleus sampling. Range: (0, 1]; 1 keeps all tokens.
  /// Source: Holtzman et al., arXiv:1904.09751, section 3.1.
  float top_p = 1.0f;
  /// Number of best tokens kept. Range: -1 (all) or >= 1.
  int32_t top_k = -1;
  /// Tokens below min_p times the best token's probability are dropped. Range: [0, 1].
  float min_p = 0.0f;
  /// Seed of this request's draws; unset: the engine draws one from its own seed and the order of submission.
  std::optional<int64_t> seed;
  /// Strings that end the text; matched anywhere in it, across tokens, and left out of it.
  /// UTF-8; at most 16 strings and 4096 bytes in all; no empty string.
  std::vector<std::string> stop;
  /// Token ids that end the sequence; the token stays in token_ids, its text is left out as that of a stop string is.
  /// Range of each: [0, vocabulary); at most 128.
  std::vector<int32_t> stop_token_ids;
  /// Leave the stop string, or the text of the stop id, in the text.
  bool include_stop_str_in_output = false;
  /// Go on after the model's end-of-text token.
  bool ignore_eos = false;
  /// Most tokens generated; unset: until max_model_len. Range: >= 1.
  std::optional<int32_t> max_tokens = 16;
  /// End-of-text and stop ids are masked and stop strings ignored before this many tokens. Range: [0, max_tokens].
  int32_t min_tokens = 0;
  /// Number of best log-probabilities returned per generated token beside the chosen one's; unset: none at all.
  /// Range: [0, EngineConfig::max_logprobs].
  std::optional<int32_t> logprobs;
  /// The same for the prompt's tokens, from the second on. Of temperature and truncation, but not of biases, masks and
  /// penalties, which are about generated tokens.
  std::optional<int32_t> prompt_logprobs;
  /// Added to the logits of these token ids before anything else. Range: id in [0, vocabulary), bias finite; at most
  /// 1024.
  std::vector<std::pair<int32_t, float>> logit_bias;
  /// Leave special tokens (end of text and the like) out of the text.
  bool skip_special_tokens = true;
  /// Decode the output behind the prompt, so that a first word keeps its space and prompt + text reads on, as vLLM
  /// does; otherwise exactly as the tokenizer decodes the output's ids by themselves. The two differ for tokenizers
  /// whose decoder strips a leading space (SentencePiece), and where a character begins in the prompt.
  bool text_continues_prompt = false;

  /// Whether the best token is always taken.
  bool greedy() const { return temperature < 1e-5f; }

  /// Check all that can be checked without a model.
  /// Raises: kInvalidArgument naming field and value.
  void validate() const;
};

}  // namespace quire
