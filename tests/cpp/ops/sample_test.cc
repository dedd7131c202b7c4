#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "backend/cpu/random.h"
#include "ops/op_machine.h"
#include "ops/sample_oracle.h"

namespace quire {
namespace {

using test::Choice;
using test::kInf;
using test::kNan;
using test::OpMachine;
using test::OpVector;
using test::SampleOracle;

/// What a row has become.
struct Sampled {
  int32_t token = 0;
  float logprob = 0.0f;
  bool finite = true;
  std::vector<SampledCandidate> candidates;
};

class SampleTest : public test::OpTest {
 protected:
  std::vector<Sampled> sample(const std::vector<std::vector<float>>& logits, const std::vector<Choice>& choices) {
    return sample_on(machine, logits, choices);
  }

  Sampled sample_one(const std::vector<float>& logits, const Choice& choice) { return sample({logits}, {choice})[0]; }

  static std::vector<Sampled> sample_on(OpMachine& machine, const std::vector<std::vector<float>>& logits,
                                        const std::vector<Choice>& choices) {
    OpVector<float> matrix;
    for (const std::vector<float>& row : logits) matrix.insert(matrix.end(), row.begin(), row.end());
    const int64_t num_rows = static_cast<int64_t>(logits.size());
    const int64_t vocabulary = static_cast<int64_t>(logits[0].size());
    OpVector<SampleRow> rows;
    OpVector<int32_t> ids;
    OpVector<TokenBias> biases;
    int32_t max_candidates = 1;
    for (const Choice& choice : choices) {
      SampleRow& row = rows.emplace_back(choice);
      row.first_id = static_cast<int32_t>(ids.size());
      row.first_bias = static_cast<int32_t>(biases.size());
      const auto add = [](auto& all, const auto& list) {
        all.insert(all.end(), list.begin(), list.end());
        return static_cast<int32_t>(list.size());
      };
      row.num_prompt_ids = add(ids, choice.prompt);
      row.num_output_ids = add(ids, choice.output);
      row.num_masked_ids = add(ids, choice.masked);
      row.num_biases = add(biases, choice.bias);
      max_candidates = std::max(max_candidates, row.num_logprobs + 1);
    }
    OpVector<SampledToken> tokens(choices.size());
    OpVector<SampledCandidate> candidates(choices.size() * static_cast<size_t>(max_candidates));
    const Buffer scratch =
        machine.backend->allocate(machine.backend->sample_scratch_bytes(num_rows, vocabulary), MemoryKind::kWorkspace);
    machine.run(&Ops::sample, {.logits = Tensor(matrix.data(), DType::kFloat32, {num_rows, vocabulary}),
                               .rows = rows.data(),
                               .ids = ids.data(),
                               .biases = biases.data(),
                               .tokens = tokens.data(),
                               .candidates = candidates.data(),
                               .max_candidates = max_candidates,
                               .scratch = scratch.data()});
    std::vector<Sampled> results;
    for (size_t r = 0; r < tokens.size(); ++r) {
      const auto first = candidates.begin() + static_cast<int64_t>(r) * max_candidates;
      results.push_back({tokens[r].token, tokens[r].logprob, tokens[r].finite != 0,
                         std::vector<SampledCandidate>(first, first + tokens[r].num_candidates)});
    }
    return results;
  }
};
QUIRE_TEST_EVERY_DEVICE(SampleTest);

/// Greedy, with the best n log-probabilities.
Choice greedy(int32_t num_logprobs = -1) {
  Choice row;
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

void expect_like_oracle(const Sampled& got, const SampleOracle& oracle, const SampleRow& row) {
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

/// Rows with all features mixed at random.
std::vector<Choice> random_choices(size_t count, int32_t vocabulary, uint32_t seed) {
  std::vector<Choice> choices;
  std::mt19937 generator(seed);
  const auto chance = [&](int percent) { return static_cast<int>(generator() % 100) < percent; };
  const auto id = [&] { return static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary)); };
  for (size_t i = 0; i < count; ++i) {
    Choice& row = choices.emplace_back();
    row.temperature = chance(20) ? 0.0f : 0.3f + 0.01f * static_cast<float>(generator() % 200);
    if (chance(40)) row.top_p = 0.05f + 0.01f * static_cast<float>(generator() % 95);
    if (chance(40)) row.top_k = 1 + static_cast<int32_t>(generator() % static_cast<uint32_t>(2 * vocabulary));
    if (chance(30)) row.top_k = 1 + static_cast<int32_t>(generator() % 20);
    if (chance(30)) row.min_p = 0.001f * static_cast<float>(generator() % 400);
    if (chance(30)) row.presence_penalty = 0.7f;
    if (chance(30)) row.frequency_penalty = -0.3f;
    if (chance(30)) row.repetition_penalty = 1.3f;
    for (int n = 0; n < 20; ++n) row.prompt.push_back(id() % 40);
    for (int n = 0; n < 20; ++n) row.output.push_back(id() % 30);
    for (int n = 0; chance(60) && n < 5; ++n) row.masked.push_back(id());
    for (int n = 0; chance(60) && n < 5; ++n) row.bias.push_back({id(), chance(50) ? 5.0f : -5.0f});
    row.seed = generator();
    row.sequence = generator() % 3;
    row.position = generator() % 1000;
    row.num_logprobs = chance(50) ? -1 : static_cast<int32_t>(generator() % 12);
  }
  return choices;
}

TEST_P(SampleTest, mixed_features_give_what_the_definition_gives) {
  int compared = 0;
  for (const int32_t vocabulary : {50, 64, 300, 4097, 20000}) {
    const size_t count = vocabulary > 4000 ? 40 : 150;
    const std::vector<Choice> choices = random_choices(count, vocabulary, 17 + static_cast<uint32_t>(vocabulary));
    for (size_t i = 0; i < count; ++i) {
      const std::vector<float> logits =
          random_logits(static_cast<size_t>(vocabulary), static_cast<uint32_t>(i), i % 3 == 0 ? 0.5f : 4.0f);
      const SampleOracle oracle(logits, choices[i]);
      // Where rounding may decide, both answers are right.
      if (oracle.nearest_cut < 1e-6) continue;
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocabulary << ", row " << i);
      expect_like_oracle(sample_one(logits, choices[i]), oracle, choices[i]);
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
      Choice row;
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
  const std::vector<Choice> choices = random_choices(12, kVocabulary, 5);
  std::vector<std::vector<float>> logits;
  for (uint32_t i = 0; i < 12; ++i) logits.push_back(random_logits(kVocabulary, i, 1.0f));
  const std::vector<Sampled> together = sample(logits, choices);
  OpMachine single(GetParam(), 1);
  OpMachine many(GetParam(), 5);
  for (size_t i = 0; i < 12; ++i) {
    for (OpMachine* const other : {&machine, &single, &many}) {
      const Sampled alone = sample_on(*other, {logits[i]}, {choices[i]})[0];
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
  const Sampled result = sample_one(logits, greedy(4));
  EXPECT_EQ(result.token, 4100);
  const std::vector<int32_t> expected = {4100, 4200, 4500, 0};
  ASSERT_EQ(result.candidates.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(result.candidates[i].token, expected[i]);
    EXPECT_EQ(result.candidates[i].rank, static_cast<int32_t>(i + 1));
  }
  Choice row;
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
  const auto kept = [&](const Choice& choice) {
    std::set<int32_t> tokens;
    Choice row = choice;
    for (row.position = 0; row.position < 300; ++row.position) tokens.insert(sample_one(logits, row).token);
    return tokens;
  };
  using Tokens = std::set<int32_t>;
  EXPECT_EQ(kept({}), (Tokens{0, 1, 2, 3}));
  Choice row;
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
      Choice row;
      row.temperature = 0.7f;
      row.seed = seed;
      row.sequence = 2;
      if (filtered) row.top_p = 0.99999f;
      const SampleOracle oracle(logits, row);
      const std::vector<std::vector<float>> same(100, logits);
      std::vector<int> counts(kTokens, 0);
      for (int i = 0; i < kDraws; i += 100) {
        std::vector<Choice> rows(100, row);
        for (size_t r = 0; r < 100; ++r) rows[r].position = static_cast<uint64_t>(i) + r;
        for (const Sampled& result : sample(same, rows)) ++counts[static_cast<size_t>(result.token)];
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
  Choice row = greedy(4);
  row.prompt = {1, 1, 2};
  row.output = {0, 0, 0, 1};
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
  Choice row;
  row.temperature = 0.5f;
  row.top_k = 3;
  row.output = {7, 7, 9};
  row.frequency_penalty = 1.0f;
  row.repetition_penalty = 1.5f;
  row.masked = {3};
  row.bias = {{11, 30.0f}};
  row.num_logprobs = 6;
  row.raw_logprobs = 1;
  const Sampled result = sample_one(logits, row);
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

TEST_P(SampleTest, raw_logprobs_know_nothing_of_what_filters_dropped) {
  const std::vector<float> logits = random_logits(5000, 13, 1.0f);
  const SampleOracle untouched(logits, greedy());
  for (const bool by_mass : {false, true}) {
    Choice row;
    if (by_mass) {
      row.top_p = 0.5f;
    } else {
      row.top_k = 3;
    }
    row.num_logprobs = 2;
    row.raw_logprobs = 1;
    const Sampled result = sample_one(logits, row);
    EXPECT_NEAR(result.logprob, untouched.logprob(result.token), kLogprobTolerance);
  }
}

TEST_P(SampleTest, equal_tokens_of_smaller_id_rank_before_even_at_minus_infinity) {
  const std::vector<float> logits = {-kInf, 1.0f, -kInf, 2.0f, -kInf};
  Choice row;
  row.num_logprobs = 0;
  for (const auto& [token, rank] : std::vector<std::pair<int32_t, int32_t>>{{3, 1}, {1, 2}, {0, 3}, {2, 4}, {4, 5}}) {
    row.given_token = token;
    EXPECT_EQ(sample_one(logits, row).candidates.at(0).rank, rank) << "token " << token;
  }
}

TEST_P(SampleTest, tokens_that_filters_dropped_are_reported_as_impossible) {
  const std::vector<float> logits = {1.0f, 5.0f, 2.0f, 4.0f, 3.0f};
  Choice row;
  row.top_k = 2;
  row.num_logprobs = 4;
  const Sampled result = sample_one(logits, row);
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
  Choice row;
  row.given_token = 123;
  row.num_logprobs = 3;
  row.temperature = 0.2f;
  row.top_k = 1;
  row.prompt = row.output = row.masked = {123, 5};
  row.repetition_penalty = 2.0f;
  const Sampled result = sample_one(logits, row);
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
      Choice row;
      row.top_p = 0.5f;
      const std::vector<Sampled> results = sample({good, logits, good, good}, {row, row, row, row});
      EXPECT_TRUE(results[0].finite && results[2].finite && results[3].finite);
      EXPECT_FALSE(results[1].finite);
      // Even where a mask hides it.
      row.masked = {static_cast<int32_t>(place)};
      EXPECT_FALSE(sample_one(logits, row).finite);
    }
  }
  EXPECT_FALSE(sample_one(std::vector<float>(100, -kInf), greedy()).finite);
}

TEST_P(SampleTest, masked_tokens_are_never_chosen) {
  std::vector<float> logits = random_logits(300, 15);
  Choice row;
  for (int32_t id = 0; id < 300; ++id) {
    if (id != 77 && id != 290) row.masked.push_back(id);
  }
  std::set<int32_t> tokens;
  for (row.position = 0; row.position < 200; ++row.position) tokens.insert(sample_one(logits, row).token);
  logits[77] = -kInf;
  EXPECT_EQ(tokens, (std::set<int32_t>{77, 290}));
  EXPECT_EQ(sample_one(logits, row).token, 290) << "minus infinity is a logit like others";
}

class ResolveTest : public test::OpTest {};
QUIRE_TEST_EVERY_DEVICE(ResolveTest);

TEST_P(ResolveTest, puts_sampled_tokens_in_place_of_negative_ids_and_touches_no_more_than_it_is_told) {
  OpVector<SampledToken> tokens(300);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i].token = 1000 + static_cast<int32_t>(i);
  OpVector<int32_t> ids = {5, -1, 0, -300, -2, -2, 7, -1};
  OpVector<int32_t> count = {7};
  machine.run(&Ops::resolve, {.ids = ids.data(), .count = count.data(), .tokens = tokens.data()});
  EXPECT_EQ(ids, (OpVector<int32_t>{5, 1000, 0, 1299, 1001, 1001, 7, -1}));
  count[0] = 0;
  machine.run(&Ops::resolve, {.ids = ids.data(), .count = count.data(), .tokens = tokens.data()});
  EXPECT_EQ(ids.back(), -1);
}

TEST_P(ResolveTest, serves_long_lists) {
  OpVector<SampledToken> tokens(2);
  tokens[1].token = 9;
  OpVector<int32_t> ids(100'000, 3);
  for (size_t i = 0; i < ids.size(); i += 7) ids[i] = -2;
  OpVector<int32_t> count = {static_cast<int32_t>(ids.size())};
  machine.run(&Ops::resolve, {.ids = ids.data(), .count = count.data(), .tokens = tokens.data()});
  for (size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(ids[i], i % 7 == 0 ? 9 : 3) << i;
}

}  // namespace
}  // namespace quire
