#include "quire/sampling.h"

#include <charconv>
#include <cmath>
#include <string>

#include "core/check.h"
#include "text/utf8.h"

namespace quire {
namespace {

constexpr size_t kMaxStopStrings = 16;
constexpr size_t kMaxStopBytes = 4096;
constexpr size_t kMaxStopIds = 128;
constexpr size_t kMaxBiases = 1024;
constexpr int32_t kMaxCompletions = 128;

/// Shortest text that reads back as the same float, so that a value just beyond a limit is not shown as the limit.
std::string exact(float value) {
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  return std::string(buffer, end);
}

void require_field(bool valid, const char* field, const std::string& value, const char* expected) {
  QUIRE_REQUIRE(valid, ErrorKind::kInvalidArgument, "[sampling] value out of range: ", field, "=", value,
                ", expected=", expected);
}

// Comparisons are written so that NaN fails them.
void require_penalties(const SamplingParams& params) {
  const auto within_two = [](float value) { return value >= -2.0f && value <= 2.0f; };
  require_field(within_two(params.presence_penalty), "presence_penalty", exact(params.presence_penalty), "[-2, 2]");
  require_field(within_two(params.frequency_penalty), "frequency_penalty", exact(params.frequency_penalty), "[-2, 2]");
  require_field(params.repetition_penalty > 0.0f && params.repetition_penalty <= 2.0f, "repetition_penalty",
                exact(params.repetition_penalty), "(0, 2]");
}

void require_distribution(const SamplingParams& params) {
  require_field(params.temperature >= 0.0f && std::isfinite(params.temperature), "temperature",
                exact(params.temperature), "finite, at least 0");
  require_field(params.top_p > 0.0f && params.top_p <= 1.0f, "top_p", exact(params.top_p), "(0, 1]");
  require_field(params.top_k == -1 || params.top_k >= 1, "top_k", std::to_string(params.top_k),
                "-1 (all) or at least 1");
  require_field(params.min_p >= 0.0f && params.min_p <= 1.0f, "min_p", exact(params.min_p), "[0, 1]");
}

void require_lengths(const SamplingParams& params) {
  if (params.max_tokens) {
    require_field(*params.max_tokens >= 1, "max_tokens", std::to_string(*params.max_tokens), "at least 1");
  }
  require_field(params.min_tokens >= 0, "min_tokens", std::to_string(params.min_tokens), "at least 0");
  if (params.max_tokens) {
    const std::string expected = "at most max_tokens=" + std::to_string(*params.max_tokens);
    require_field(params.min_tokens <= *params.max_tokens, "min_tokens", std::to_string(params.min_tokens),
                  expected.c_str());
  }
  if (params.logprobs) require_field(*params.logprobs >= 0, "logprobs", std::to_string(*params.logprobs), "at least 0");
  if (params.prompt_logprobs) {
    require_field(*params.prompt_logprobs >= 0, "prompt_logprobs", std::to_string(*params.prompt_logprobs),
                  "at least 0");
  }
}

void require_lists(const SamplingParams& params) {
  require_field(params.stop.size() <= kMaxStopStrings, "len(stop)", std::to_string(params.stop.size()),
                "at most 16 stop strings");
  size_t stop_bytes = 0;
  for (const std::string& text : params.stop) {
    require_field(!text.empty(), "stop", "\"\"", "no empty string");
    require_field(is_utf8(text), "stop", "(bytes that are no text)", "UTF-8");
    stop_bytes += text.size();
  }
  require_field(stop_bytes <= kMaxStopBytes, "bytes of stop", std::to_string(stop_bytes), "at most 4096 in all");
  require_field(params.stop_token_ids.size() <= kMaxStopIds, "len(stop_token_ids)",
                std::to_string(params.stop_token_ids.size()), "at most 128");
  require_field(params.logit_bias.size() <= kMaxBiases, "len(logit_bias)", std::to_string(params.logit_bias.size()),
                "at most 1024");
  for (const auto& [id, bias] : params.logit_bias) {
    require_field(std::isfinite(bias), "logit_bias", std::to_string(id) + ":" + exact(bias), "finite");
  }
}

}  // namespace

void SamplingParams::validate() const {
  require_field(n >= 1 && n <= kMaxCompletions, "n", std::to_string(n), "[1, 128]");
  require_penalties(*this);
  require_distribution(*this);
  require_lengths(*this);
  require_lists(*this);
}

}  // namespace quire
