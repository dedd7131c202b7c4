#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "backend/cpu/random.h"
#include "ops/op_machine.h"
#include "ops/sample_oracle.h"

namespace quire {
namespace {

using test::kInf;
using test::kNan;
using test::OpMachine;
using test::SampleOracle;

class SampleTest : public test::OpTest {
 protected:
  std::vector<SampleResult> sample(const std::vector<std::vector<float>>& logits, const std::vector<SampleRow>& rows) {
    return sample_on(machine, logits, rows);
  }

  SampleResult sample_one(const std::vector<float>& logits, const SampleRow& row) { return sample({logits}, {row})[0]; }

  static std::vector<SampleResult> sample_on(OpMachine& machine, const std::vector<std::vector<float>>& logits,
                                             const std::vector<SampleRow>& rows) {
    std::vector<float> matrix;
    for (const std::vector<float>& row : logits) matrix.insert(matrix.end(), row.begin(), row.end());
    const int64_t num_rows = static_cast<int64_t>(logits.size());
    std::vector<SampleResult> results(rows.size());
    SampleArgs args;
    args.logits = Tensor(matrix.data(), DType::kFloat32, {num_rows, static_cast<int64_t>(logits[0].size())});
    args.rows = rows;
    args.results = results;
    machine.ops().sample(args, *machine.stream);
    return results;
  }
};
QUIRE_TEST_EVERY_ISA(SampleTest);

/// Greedy, with the best n log-probabilities.
SampleRow greedy(int32_t num_logprobs = -1) {
  SampleRow row;
  row.temperature = 0.0f;
  row.num_logprobs = num_logprobs;
  return row;
}

std::vector<float> random_logits(size_t size, uint32_t seed, float scale = 3.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

/// float32 sums of up to 150,000 exponentials, in chunks.
constexpr double kLogprobTolerance = 2e-5;

void expect_like_oracle(const SampleResult& got, const SampleOracle& oracle, const SampleRow& row) {
  ASSERT_TRUE(got.finite);
  const bool greedy_row = row.temperature < 1e-5f;
  if (greedy_row) {
    ASSERT_EQ(got.token, oracle.order[0]);
  } else {
    const double uniform = cpu::uniform_draw(row.seed, row.sequence, row.position);
    ASSERT_TRUE(oracle.drawn(got.token, uniform)) << "token " << got.token << ", draw " << uniform;
  }
  ASSERT_NEAR(got.logprob, oracle.logprob(got.token), kLogprobTolerance);
  if (row.num_logprobs < 0) {
    ASSERT_TRUE(got.candidates.empty());
    return;
  }
  const size_t wanted = static_cast<size_t>(row.num_logprobs);
  ASSERT_EQ(got.candidates[0].token, got.token);
  ASSERT_EQ(got.candidates[0].rank, oracle.rank(got.token));
  const bool among = static_cast<size_t>(oracle.rank(got.token)) <= wanted;
  ASSERT_EQ(got.candidates.size(), wanted + (among ? 0 : 1));
  int32_t last_rank = 0;
  for (size_t i = 1; i < got.candidates.size(); ++i) {
    const auto& candidate = got.candidates[i];
    ASSERT_GT(candidate.rank, last_rank);
    ASSERT_NE(candidate.token, got.token);
    last_rank = candidate.rank;
    const double expected = oracle.logprob(candidate.token);
    if (std::isinf(expected)) {
      ASSERT_EQ(candidate.logprob, -kInf);
      continue;
    }
    ASSERT_EQ(candidate.token, oracle.order[static_cast<size_t>(candidate.rank - 1)]);
    ASSERT_NEAR(candidate.logprob, expected, kLogprobTolerance);
  }
}

/// Rows with all features mixed at random; `lists` keeps the ids that they point to.
struct RandomRows {
  struct Lists {
    std::vector<int32_t> prompt, output, masked;
    std::vector<std::pair<int32_t, float>> bias;
  };

  RandomRows(size_t count, int32_t vocabulary, uint32_t seed) : lists(count) {
    std::mt19937 generator(seed);
    const auto chance = [&](int percent) { return static_cast<int>(generator() % 100) < percent; };
    const auto id = [&] { return static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary)); };
    for (size_t i = 0; i < count; ++i) {
      SampleRow row;
      row.temperature = chance(20) ? 0.0f : 0.3f + 0.01f * static_cast<float>(generator() % 200);
      if (chance(40)) row.top_p = 0.05f + 0.01f * static_cast<float>(generator() % 95);
      if (chance(40)) row.top_k = 1 + static_cast<int32_t>(generator() % static_cast<uint32_t>(2 * vocabulary));
      if (chance(30)) row.top_k = 1 + static_cast<int32_t>(generator() % 20);
      if (chance(30)) row.min_p = 0.001f * static_cast<float>(generator() % 400);
      if (chance(30)) row.presence_penalty = 0.7f;
      if (chance(30)) row.frequency_penalty = -0.3f;
      if (chance(30)) row.repetition_penalty = 1.3f;
      Lists& list = lists[i];
      for (int n = 0; n < 20; ++n) list.prompt.push_back(id() % 40);
      for (int n = 0; n < 20; ++n) list.output.push_back(id() % 30);
      for (int n = 0; chance(60) && n < 5; ++n) list.masked.push_back(id());
      for (int n = 0; chance(60) && n < 5; ++n) list.bias.emplace_back(id(), chance(50) ? 5.0f : -5.0f);
      row.prompt_ids = list.prompt;
      row.output_ids = list.output;
      row.masked_ids = list.masked;
      row.logit_bias = list.bias;
      row.seed = generator();
      row.sequence = generator() % 3;
      row.position = generator() % 1000;
      row.num_logprobs = chance(50) ? -1 : static_cast<int32_t>(generator() % 12);
      rows.push_back(row);
    }
  }

  std::vector<Lists> lists;
  std::vector<SampleRow> rows;
};

TEST_P(SampleTest, mixed_features_give_what_the_definition_gives) {
  int compared = 0;
  for (const int32_t vocabulary : {50, 64, 300, 4097, 20000}) {
    const size_t count = vocabulary > 4000 ? 40 : 150;
    const RandomRows random(count, vocabulary, 17 + static_cast<uint32_t>(vocabulary));
    for (size_t i = 0; i < count; ++i) {
      const std::vector<float> logits =
          random_logits(static_cast<size_t>(vocabulary), static_cast<uint32_t>(i), i % 3 == 0 ? 0.5f : 4.0f);
      const SampleOracle oracle(logits, random.rows[i]);
      // Where rounding may decide, both answers are right.
      if (oracle.nearest_cut < 1e-6) continue;
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocabulary << ", row " << i);
      expect_like_oracle(sample_one(logits, random.rows[i]), oracle, random.rows[i]);
      ++compared;
    }
  }
  EXPECT_GT(compared, 400);
}

TEST_P(SampleTest, a_large_vocabulary_gives_what_the_definition_gives) {
  constexpr size_t kVocabulary = 151936;
  for (const float scale : {0.1f, 6.0f}) {
    const std::vector<float> logits = random_logits(kVocabulary, 3, scale);
    for (int kind = 0; kind < 6; ++kind) {
      SampleRow row;
      row.position = static_cast<uint64_t>(kind);
      row.num_logprobs = 5;
      if (kind == 1) row.top_p = 0.9f;
      if (kind == 2) row.top_k = 50;
      if (kind == 3) row.min_p = 0.02f;
      if (kind == 4) row.top_p = 0.999999f;
      if (kind == 5) row.top_k = 100000;
      SCOPED_TRACE(testing::Message() << "kind " << kind << ", scale " << scale);
      expect_like_oracle(sample_one(logits, row), SampleOracle(logits, row), row);
    }
  }
}

TEST_P(SampleTest, neighbours_threads_and_the_place_in_the_batch_change_nothing) {
  constexpr int32_t kVocabulary = 9000;
  const RandomRows random(12, kVocabulary, 5);
  std::vector<std::vector<float>> logits;
  for (uint32_t i = 0; i < 12; ++i) logits.push_back(random_logits(kVocabulary, i, 1.0f));
  const std::vector<SampleResult> together = sample(logits, random.rows);
  OpMachine single(GetParam(), 1);
  OpMachine many(GetParam(), 5);
  for (size_t i = 0; i < 12; ++i) {
    for (OpMachine* const other : {&machine, &single, &many}) {
      const SampleResult alone = sample_on(*other, {logits[i]}, {random.rows[i]})[0];
      EXPECT_EQ(alone.token, together[i].token);
      EXPECT_EQ(alone.logprob, together[i].logprob);
      ASSERT_EQ(alone.candidates.size(), together[i].candidates.size());
      for (size_t c = 0; c < alone.candidates.size(); ++c) {
        EXPECT_EQ(alone.candidates[c].token, together[i].candidates[c].token);
        EXPECT_EQ(alone.candidates[c].logprob, together[i].candidates[c].logprob);
      }
    }
  }
}

TEST_P(SampleTest, equal_logits_go_to_the_smaller_id) {
  std::vector<float> logits(5000, 1.0f);
  EXPECT_EQ(sample_one(logits, greedy()).token, 0);
  logits[4500] = logits[4100] = logits[4200] = 2.0f;
  const SampleResult result = sample_one(logits, greedy(4));
  EXPECT_EQ(result.token, 4100);
  const std::vector<int32_t> expected = {4100, 4200, 4500, 0};
  ASSERT_EQ(result.candidates.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(result.candidates[i].token, expected[i]);
    EXPECT_EQ(result.candidates[i].rank, static_cast<int32_t>(i + 1));
  }
  SampleRow row;
  row.given_token = 4500;
  row.num_logprobs = 0;
  EXPECT_EQ(sample_one(logits, row).candidates[0].rank, 3);
  row.given_token = 3;
  EXPECT_EQ(sample_one(logits, row).candidates[0].rank, 7);
  row = {};
  row.top_k = 2;
  for (row.position = 0; row.position < 50; ++row.position) {
    EXPECT_LT(sample_one(logits, row).token, 4201) << "top_k 2 keeps 4100 and 4200";
  }
}

TEST_P(SampleTest, filters_keep_exactly_the_defined_tokens) {
  // Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  const auto kept = [&](const SampleRow& choice) {
    std::set<int32_t> tokens;
    SampleRow row = choice;
    for (row.position = 0; row.position < 300; ++row.position) tokens.insert(sample_one(logits, row).token);
    return tokens;
  };
  using Tokens = std::set<int32_t>;
  EXPECT_EQ(kept({}), (Tokens{0, 1, 2, 3}));
  SampleRow row;
  row.top_k = 1;
  EXPECT_EQ(kept(row), (Tokens{1}));
  row.top_k = 3;
  EXPECT_EQ(kept(row), (Tokens{1, 2, 3}));
  row = {};
  row.top_p = 0.01f;
  EXPECT_EQ(kept(row), (Tokens{1})) << "at least one token is kept";
  row.top_p = 0.41f;
  EXPECT_EQ(kept(row), (Tokens{1, 3})) << "the token that passes top_p is kept";
  row.top_p = 0.69f;
  EXPECT_EQ(kept(row), (Tokens{1, 3}));
  row.top_p = 0.71f;
  EXPECT_EQ(kept(row), (Tokens{1, 2, 3}));
  row.top_k = 2;
  EXPECT_EQ(kept(row), (Tokens{1, 3})) << "top_p is a share of what top_k left: 4/7 and 3/7";
  row.top_p = 0.5f;
  EXPECT_EQ(kept(row), (Tokens{1})) << "of 4/7 and 3/7 the first passes one half";
  row = {};
  row.min_p = 0.4f;
  EXPECT_EQ(kept(row), (Tokens{1, 2, 3})) << "0.2 >= 0.4 * 0.4 > 0.1";
  row.min_p = 0.8f;
  EXPECT_EQ(kept(row), (Tokens{1}));
  row.min_p = 1.0f;
  EXPECT_EQ(kept(row), (Tokens{1}));
}

TEST_P(SampleTest, draws_follow_the_probabilities) {
  // Chi-square of 15 degrees of freedom: above 44.3 once in 10^4; the seeds are fixed.
  constexpr int kTokens = 16;
  constexpr int kDraws = 20000;
  const std::vector<float> logits = random_logits(kTokens, 9, 1.0f);
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{0x123456789abcdef}}) {
    for (const bool filtered : {false, true}) {
      SampleRow row;
      row.temperature = 0.7f;
      row.seed = seed;
      row.sequence = 2;
      if (filtered) row.top_p = 0.99999f;
      const SampleOracle oracle(logits, row);
      const std::vector<std::vector<float>> same(100, logits);
      std::vector<int> counts(kTokens, 0);
      for (int i = 0; i < kDraws; i += 100) {
        std::vector<SampleRow> rows(100, row);
        for (size_t r = 0; r < 100; ++r) rows[r].position = static_cast<uint64_t>(i) + r;
        for (const SampleResult& result : sample(same, rows)) ++counts[static_cast<size_t>(result.token)];
      }
      double chi_square = 0.0;
      for (size_t token = 0; token < kTokens; ++token) {
        const double expected = kDraws * oracle.weights[token] / oracle.total;
        chi_square += (counts[token] - expected) * (counts[token] - expected) / expected;
      }
      EXPECT_LT(chi_square, 44.3) << "seed " << seed;
    }
  }
}

TEST_P(SampleTest, penalties_count_distinct_tokens_once_and_occurrences_each) {
  const std::vector<float> logits = {2.0f, -1.0f, 3.0f, 1.0f};
  const std::vector<int32_t> prompt = {1, 1, 2};
  const std::vector<int32_t> output = {0, 0, 0, 1};
  SampleRow row = greedy(4);
  row.prompt_ids = prompt;
  row.output_ids = output;
  const auto logit_differences = [&] {
    // Against token 3, which nothing touches.
    std::vector<float> values(4);
    for (const SampledCandidate& candidate : sample_one(logits, row).candidates) {
      values[static_cast<size_t>(candidate.token)] = candidate.logprob;
    }
    for (int i = 0; i < 3; ++i) values[static_cast<size_t>(i)] -= values[3] - 1.0f;
    return values;
  };
  const auto expect_logits = [&](float zero, float one, float two) {
    const std::vector<float> got = logit_differences();
    EXPECT_NEAR(got[0], zero, 1e-5);
    EXPECT_NEAR(got[1], one, 1e-5);
    EXPECT_NEAR(got[2], two, 1e-5);
  };
  row.repetition_penalty = 2.0f;
  expect_logits(1.0f, -2.0f, 1.5f);
  row.repetition_penalty = 1.0f;
  row.frequency_penalty = 0.5f;
  expect_logits(0.5f, -1.5f, 3.0f);
  row.frequency_penalty = 0.0f;
  row.presence_penalty = 0.5f;
  expect_logits(1.5f, -1.5f, 3.0f);
  row.repetition_penalty = 2.0f;
  row.frequency_penalty = 0.25f;
  expect_logits(1.0f - 0.75f - 0.5f, -2.0f - 0.25f - 0.5f, 1.5f);
}

TEST_P(SampleTest, raw_logprobs_are_those_of_the_untouched_logits) {
  const std::vector<float> logits = random_logits(5000, 12, 1.0f);
  const std::vector<int32_t> output = {7, 7, 9};
  const std::vector<int32_t> masked = {3};
  const std::vector<std::pair<int32_t, float>> bias = {{11, 30.0f}};
  SampleRow row;
  row.temperature = 0.5f;
  row.top_k = 3;
  row.output_ids = output;
  row.frequency_penalty = 1.0f;
  row.repetition_penalty = 1.5f;
  row.masked_ids = masked;
  row.logit_bias = bias;
  row.num_logprobs = 6;
  row.raw_logprobs = true;
  const SampleResult result = sample_one(logits, row);
  EXPECT_EQ(result.token, 11);
  const SampleOracle untouched(logits, greedy());
  EXPECT_NEAR(result.logprob, untouched.logprob(11), kLogprobTolerance);
  ASSERT_GE(result.candidates.size(), 6u);
  EXPECT_EQ(result.candidates[0].rank, untouched.rank(11));
  for (size_t i = 1; i < result.candidates.size(); ++i) {
    EXPECT_EQ(result.candidates[i].token, untouched.order[i - 1]);
    EXPECT_NEAR(result.candidates[i].logprob, untouched.logprob(untouched.order[i - 1]), kLogprobTolerance);
  }
}

TEST_P(SampleTest, tokens_that_filters_dropped_are_reported_as_impossible) {
  const std::vector<float> logits = {1.0f, 5.0f, 2.0f, 4.0f, 3.0f};
  SampleRow row;
  row.top_k = 2;
  row.num_logprobs = 4;
  const SampleResult result = sample_one(logits, row);
  ASSERT_EQ(result.candidates.size(), 4u);
  std::vector<int32_t> tokens;
  for (const SampledCandidate& candidate : result.candidates) tokens.push_back(candidate.token);
  std::sort(tokens.begin(), tokens.begin() + 2);
  EXPECT_EQ(tokens, (std::vector<int32_t>{1, 3, 0, 2})) << "of the dropped ones the smaller id comes first";
  EXPECT_EQ(result.candidates[2].logprob, -kInf);
  EXPECT_EQ(result.candidates[2].rank, 3);
  EXPECT_NEAR(std::exp(result.candidates[0].logprob) + std::exp(result.candidates[1].logprob), 1.0, 1e-5);
}

TEST_P(SampleTest, a_given_token_is_reported_without_any_change_of_the_logits) {
  const std::vector<float> logits = random_logits(700, 13);
  SampleRow row;
  row.given_token = 123;
  row.num_logprobs = 3;
  row.temperature = 0.2f;
  row.top_k = 1;
  const std::vector<int32_t> ids = {123, 5};
  row.prompt_ids = row.output_ids = row.masked_ids = ids;
  row.repetition_penalty = 2.0f;
  const SampleResult result = sample_one(logits, row);
  const SampleOracle untouched(logits, greedy());
  EXPECT_EQ(result.token, 123);
  EXPECT_NEAR(result.logprob, untouched.logprob(123), kLogprobTolerance);
  ASSERT_GE(result.candidates.size(), 3u);
  EXPECT_EQ(result.candidates[0].rank, untouched.rank(123));
  EXPECT_EQ(result.candidates[1].token, untouched.order[0]);
}

TEST_P(SampleTest, logits_that_are_not_numbers_choose_no_token) {
  const std::vector<float> good = random_logits(5000, 14);
  for (const size_t place : {size_t{0}, size_t{4095}, size_t{4999}}) {
    for (const float bad : {kNan, -kNan, kInf}) {
      std::vector<float> logits = good;
      logits[place] = bad;
      EXPECT_FALSE(sample_one(logits, greedy()).finite);
      SampleRow row;
      row.top_p = 0.5f;
      const std::vector<SampleResult> results = sample({good, logits, good, good}, {row, row, row, row});
      EXPECT_TRUE(results[0].finite && results[2].finite && results[3].finite);
      EXPECT_FALSE(results[1].finite);
      // Even where a mask hides it.
      const std::vector<int32_t> masked = {static_cast<int32_t>(place)};
      row.masked_ids = masked;
      EXPECT_FALSE(sample_one(logits, row).finite);
    }
  }
  EXPECT_FALSE(sample_one(std::vector<float>(100, -kInf), greedy()).finite);
}

TEST_P(SampleTest, masked_tokens_are_never_chosen) {
  std::vector<float> logits = random_logits(300, 15);
  std::vector<int32_t> masked;
  for (int32_t id = 0; id < 300; ++id) {
    if (id != 77 && id != 290) masked.push_back(id);
  }
  SampleRow row;
  row.masked_ids = masked;
  std::set<int32_t> tokens;
  for (row.position = 0; row.position < 200; ++row.position) tokens.insert(sample_one(logits, row).token);
  logits[77] = -kInf;
  EXPECT_EQ(tokens, (std::set<int32_t>{77, 290}));
  EXPECT_EQ(sample_one(logits, row).token, 290) << "minus infinity is a logit like others";
}

}  // namespace
}  // namespace quire
