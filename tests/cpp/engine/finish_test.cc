#include "engine/finish.h"

#include <gtest/gtest.h>

#include <array>

namespace quire {
namespace {

constexpr std::array<int32_t, 1> kStopIds = {7};
constexpr std::array<int32_t, 2> kEosIds = {2, 3};
constexpr FinishRules kRules = {
    .max_model_len = 100, .max_tokens = 10, .min_tokens = 3, .stop_ids = kStopIds, .eos_ids = kEosIds};

TEST(JudgeToken, lets_ordinary_tokens_pass) {
  EXPECT_EQ(judge_token(kRules, 50, 20, 5).reason, FinishReason::kNone);
}

TEST(JudgeToken, ends_at_max_tokens_and_at_max_model_len_and_not_before) {
  EXPECT_EQ(judge_token(kRules, 50, 20, 9).reason, FinishReason::kNone);
  EXPECT_EQ(judge_token(kRules, 50, 20, 10).reason, FinishReason::kLength);
  EXPECT_EQ(judge_token(kRules, 50, 99, 5).reason, FinishReason::kNone);
  EXPECT_EQ(judge_token(kRules, 50, 100, 5).reason, FinishReason::kLength);
}

TEST(JudgeToken, tells_stop_ids_from_end_of_text) {
  EXPECT_EQ(judge_token(kRules, 7, 20, 5).reason, FinishReason::kStop);
  EXPECT_TRUE(judge_token(kRules, 7, 20, 5).by_stop_id);
  for (const int32_t eos : kEosIds) {
    EXPECT_EQ(judge_token(kRules, eos, 20, 5).reason, FinishReason::kStop);
    EXPECT_FALSE(judge_token(kRules, eos, 20, 5).by_stop_id);
  }
}

TEST(JudgeToken, ignores_ids_before_min_tokens) {
  EXPECT_EQ(judge_token(kRules, 7, 20, 2).reason, FinishReason::kNone);
  EXPECT_EQ(judge_token(kRules, 2, 20, 2).reason, FinishReason::kNone);
  EXPECT_EQ(judge_token(kRules, 2, 20, 3).reason, FinishReason::kStop);
}

TEST(JudgeToken, puts_length_before_stops) {
  EXPECT_EQ(judge_token(kRules, 7, 20, 10).reason, FinishReason::kLength);
  EXPECT_FALSE(judge_token(kRules, 7, 20, 10).by_stop_id);
}

}  // namespace
}  // namespace quire
