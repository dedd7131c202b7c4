#include "quire/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "quire/error.h"

namespace quire {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Case {
  std::string field;  ///< that the message must name
  std::function<void(SamplingParams&)> change;
};

void accepts(const Case& row) {
  SamplingParams params;
  row.change(params);
  EXPECT_NO_THROW(params.validate()) << row.field;
}

void refuses(const Case& row) {
  SamplingParams params;
  row.change(params);
  try {
    params.validate();
    ADD_FAILURE() << row.field << " was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    EXPECT_NE(std::string(error.what()).find(row.field), std::string::npos) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
  }
}

template <typename Value>
Case field(const std::string& name, Value SamplingParams::* member, std::type_identity_t<Value> value) {
  return {name, [=](SamplingParams& params) { params.*member = value; }};
}

TEST(SamplingParams, defaults_are_valid) {
  EXPECT_NO_THROW(SamplingParams().validate());
}

TEST(SamplingParams, accepts_every_number_at_its_limit) {
  using P = SamplingParams;
  const std::vector<Case> rows = {
      field("n", &P::n, 1),
      field("n", &P::n, 128),
      field("presence_penalty", &P::presence_penalty, -2.0f),
      field("presence_penalty", &P::presence_penalty, 2.0f),
      field("frequency_penalty", &P::frequency_penalty, -2.0f),
      field("frequency_penalty", &P::frequency_penalty, 2.0f),
      field("repetition_penalty", &P::repetition_penalty, std::numeric_limits<float>::denorm_min()),
      field("repetition_penalty", &P::repetition_penalty, 2.0f),
      field("temperature", &P::temperature, 0.0f),
      field("temperature", &P::temperature, std::numeric_limits<float>::max()),
      field("top_p", &P::top_p, std::numeric_limits<float>::denorm_min()),
      field("top_p", &P::top_p, 1.0f),
      field("top_k", &P::top_k, -1),
      field("top_k", &P::top_k, 1),
      field("top_k", &P::top_k, std::numeric_limits<int32_t>::max()),
      field("min_p", &P::min_p, 0.0f),
      field("min_p", &P::min_p, 1.0f),
      field("seed", &P::seed, std::numeric_limits<int64_t>::min()),
      field("max_tokens", &P::max_tokens, 1),
      field("max_tokens", &P::max_tokens, std::nullopt),
      field("min_tokens", &P::min_tokens, 16),
      field("logprobs", &P::logprobs, 0),
      field("prompt_logprobs", &P::prompt_logprobs, 0),
  };
  for (const Case& row : rows) accepts(row);
}

TEST(SamplingParams, refuses_every_number_just_beyond_its_limit) {
  using P = SamplingParams;
  const float above_one = std::nextafter(1.0f, 2.0f);
  const float above_two = std::nextafter(2.0f, 3.0f);
  const float below_zero = -std::numeric_limits<float>::denorm_min();
  const std::vector<Case> rows = {
      field("n=0", &P::n, 0),
      field("n=129", &P::n, 129),
      field("presence_penalty=-2.0000002", &P::presence_penalty, -above_two),
      field("presence_penalty=2.0000002", &P::presence_penalty, above_two),
      field("frequency_penalty", &P::frequency_penalty, -above_two),
      field("frequency_penalty", &P::frequency_penalty, above_two),
      field("repetition_penalty=0", &P::repetition_penalty, 0.0f),
      field("repetition_penalty", &P::repetition_penalty, above_two),
      field("temperature", &P::temperature, below_zero),
      field("top_p=0", &P::top_p, 0.0f),
      field("top_p", &P::top_p, above_one),
      field("top_k=0", &P::top_k, 0),
      field("top_k=-2", &P::top_k, -2),
      field("min_p", &P::min_p, below_zero),
      field("min_p", &P::min_p, above_one),
      field("max_tokens=0", &P::max_tokens, 0),
      field("max_tokens=-1", &P::max_tokens, -1),
      field("min_tokens=-1", &P::min_tokens, -1),
      field("min_tokens=17, expected=at most max_tokens=16", &P::min_tokens, 17),
      field("logprobs=-1", &P::logprobs, -1),
      field("prompt_logprobs=-1", &P::prompt_logprobs, -1),
  };
  for (const Case& row : rows) refuses(row);
}

TEST(SamplingParams, refuses_nan_and_infinity_in_every_number) {
  using P = SamplingParams;
  const std::vector<std::pair<std::string, float P::*>> fields = {
      {"presence_penalty", &P::presence_penalty},
      {"frequency_penalty", &P::frequency_penalty},
      {"repetition_penalty", &P::repetition_penalty},
      {"temperature", &P::temperature},
      {"top_p", &P::top_p},
      {"min_p", &P::min_p},
  };
  for (const auto& [name, member] : fields) {
    for (const float value : {kNan, kInfinity, -kInfinity}) refuses(field(name, member, value));
  }
  for (const float value : {kNan, kInfinity, -kInfinity}) refuses(field("logit_bias", &P::logit_bias, {{3, value}}));
}

TEST(SamplingParams, limits_the_lists_by_count_and_by_bytes) {
  using P = SamplingParams;
  const auto strings = [](size_t count, size_t bytes) {
    return std::vector<std::string>(count, std::string(bytes, 'x'));
  };
  accepts(field("stop", &P::stop, strings(16, 256)));
  refuses(field("len(stop)=17", &P::stop, strings(17, 1)));
  refuses(field("bytes of stop=4097", &P::stop, strings(1, 4097)));
  refuses(field("stop", &P::stop, strings(1, 0)));
  refuses(field("stop", &P::stop, std::vector<std::string>{"\xff"}));
  refuses(field("stop", &P::stop, std::vector<std::string>{"\xff"}));
  accepts(field("stop_token_ids", &P::stop_token_ids, std::vector<int32_t>(128, 1)));
  refuses(field("len(stop_token_ids)=129", &P::stop_token_ids, std::vector<int32_t>(129, 1)));
  using Biases = std::vector<std::pair<int32_t, float>>;
  accepts(field("logit_bias", &P::logit_bias, Biases(1024, {0, -100.0f})));
  refuses(field("len(logit_bias)=1025", &P::logit_bias, Biases(1025, {0, 0.0f})));
}

TEST(SamplingParams, is_greedy_below_a_small_temperature) {
  EXPECT_TRUE(SamplingParams{.temperature = 0.0f}.greedy());
  EXPECT_TRUE(SamplingParams{.temperature = 9e-6f}.greedy());
  EXPECT_FALSE(SamplingParams{.temperature = 1e-5f}.greedy());
}

}  // namespace
}  // namespace quire
