// Sampling on a GPU against the definition in double, by sorting whole rows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "accelerators/accelerator.h"
#include "backend/cpu/random.h"

namespace quire {
namespace {

using test::Shared;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
/// Sums of up to 150,000 float32 exponentials, in spans.
constexpr double kLogprobTolerance = 2e-5;

/// A row's numbers with the lists that they point to.
struct Wish {
  SampleRow row;
  std::vector<int32_t> prompt, output, masked;
  std::vector<TokenBias> biases;
};

struct Answer {
  SampledToken token;
  std::vector<SampledCandidate> candidates;

  bool operator==(const Answer& other) const {
    return std::memcmp(&token, &other.token, sizeof(token)) == 0 && candidates.size() == other.candidates.size() &&
           (candidates.empty() ||
            std::memcmp(candidates.data(), other.candidates.data(), candidates.size() * sizeof(SampledCandidate)) == 0);
  }
};

/// What a call needs, in memory that host and device see; can be filled again between launches of a recorded graph.
class Call {
 public:
  Call(int64_t rows, int64_t vocabulary, int32_t max_candidates, int64_t row_gap = 0)
      : vocabulary_(vocabulary),
        stride_(vocabulary + row_gap),
        max_candidates_(max_candidates),
        logits_(static_cast<size_t>(rows * stride_ + kGuard)),
        rows_(static_cast<size_t>(rows)),
        ids_(size_t{1} << 16),
        biases_(size_t{1} << 16),
        tokens_(static_cast<size_t>(rows)),
        candidates_(static_cast<size_t>(rows * max_candidates) + kGuard),
        scratch_(test::accelerator()->allocate(test::accelerator()->sample_scratch_bytes(rows, vocabulary),
                                               MemoryKind::kWorkspace)) {}

  void fill(const std::vector<std::vector<float>>& logits, const std::vector<Wish>& wishes) {
    std::fill(logits_.begin(), logits_.end(), kNan);
    std::memset(static_cast<void*>(tokens_.data()), 0xa5, tokens_.size() * sizeof(SampledToken));
    std::memset(static_cast<void*>(candidates_.data()), 0xa5, candidates_.size() * sizeof(SampledCandidate));
    int32_t num_ids = 0;
    int32_t num_biases = 0;
    for (size_t r = 0; r < wishes.size(); ++r) {
      std::copy(logits[r].begin(), logits[r].end(), logits_.begin() + static_cast<int64_t>(r) * stride_);
      rows_[r] = wishes[r].row;
      rows_[r].first_id = num_ids;
      rows_[r].num_prompt_ids = static_cast<int32_t>(wishes[r].prompt.size());
      rows_[r].num_output_ids = static_cast<int32_t>(wishes[r].output.size());
      rows_[r].num_masked_ids = static_cast<int32_t>(wishes[r].masked.size());
      for (const auto* list : {&wishes[r].prompt, &wishes[r].output, &wishes[r].masked}) {
        for (const int32_t id : *list) ids_.at(static_cast<size_t>(num_ids++)) = id;
      }
      rows_[r].first_bias = num_biases;
      rows_[r].num_biases = static_cast<int32_t>(wishes[r].biases.size());
      for (const TokenBias& bias : wishes[r].biases) biases_.at(static_cast<size_t>(num_biases++)) = bias;
    }
  }

  void enqueue(Stream& stream) {
    SampleArgs args;
    args.logits = Tensor(logits_.data(), DType::kFloat32, {static_cast<int64_t>(rows_.size()), vocabulary_});
    args.logits.strides[0] = stride_;
    args.rows = rows_.data();
    args.ids = ids_.data();
    args.biases = biases_.data();
    args.tokens = tokens_.data();
    args.candidates = max_candidates_ > 0 ? candidates_.data() : nullptr;
    args.max_candidates = max_candidates_;
    args.scratch = scratch_.data();
    test::accelerator()->ops().sample(args, stream);
  }

  std::vector<Answer> answers() const {
    std::vector<Answer> all;
    for (size_t r = 0; r < rows_.size(); ++r) {
      const SampledCandidate* const first = candidates_.data() + r * static_cast<size_t>(max_candidates_);
      EXPECT_GE(tokens_[r].num_candidates, 0);
      EXPECT_LE(tokens_[r].num_candidates, max_candidates_);
      const int32_t count = std::clamp(tokens_[r].num_candidates, 0, max_candidates_);
      all.push_back({tokens_[r], {first, first + count}});
      for (int32_t i = count; i < max_candidates_; ++i) EXPECT_EQ(first[i].token, static_cast<int32_t>(0xa5a5a5a5));
      for (int64_t i = vocabulary_; i < stride_; ++i) {
        EXPECT_TRUE(std::isnan(logits_[r * static_cast<size_t>(stride_) + static_cast<size_t>(i)]));
      }
    }
    for (size_t i = logits_.size() - kGuard; i < logits_.size(); ++i) EXPECT_TRUE(std::isnan(logits_[i]));
    return all;
  }

 private:
  static constexpr size_t kGuard = 64;
  int64_t vocabulary_, stride_;
  int32_t max_candidates_;
  Shared<float> logits_;
  Shared<SampleRow> rows_;
  Shared<int32_t> ids_;
  Shared<TokenBias> biases_;
  Shared<SampledToken> tokens_;
  Shared<SampledCandidate> candidates_;
  Buffer scratch_;
};

std::vector<Answer> sample(const std::vector<std::vector<float>>& logits, const std::vector<Wish>& wishes,
                           int64_t row_gap = 0) {
  int32_t most = 0;
  for (const Wish& wish : wishes) most = std::max(most, wish.row.num_logprobs + 1);
  Call call(static_cast<int64_t>(logits.size()), static_cast<int64_t>(logits[0].size()), most, row_gap);
  call.fill(logits, wishes);
  const auto stream = test::accelerator()->create_stream();
  call.enqueue(*stream);
  stream->synchronize();
  return call.answers();
}

Answer sample_one(const std::vector<float>& logits, const Wish& wish) {
  return sample({logits}, {wish})[0];
}

/// Sampling as ops/sample.h defines it, step by step; weights as float32, as every backend decides on them.
struct Oracle {
  std::vector<float> logits;  ///< after bias, mask and penalties
  std::vector<int32_t> order;
  std::vector<int32_t> place;
  std::vector<double> weights;  ///< of every id; 0 if dropped
  std::vector<bool> kept;
  int64_t num_kept = 0;
  double scale = 1.0;
  double total = 0.0;
  double nearest_cut = 1.0;  ///< how close top_p or min_p were to deciding otherwise, as a share of the mass

  Oracle(const std::vector<float>& row, const Wish& wish) : logits(edited(row, wish)) {
    const SampleRow& choice = wish.row;
    const bool greedy = choice.temperature < 1e-5f || choice.given_token >= 0;
    if (!greedy) scale = 1.0f / choice.temperature;
    order.resize(row.size());
    place.resize(row.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return at(a) > at(b); });
    for (size_t i = 0; i < order.size(); ++i) place[static_cast<size_t>(order[i])] = static_cast<int32_t>(i);
    for (const float logit : logits) weights.push_back(std::exp((double{logit} - at(order[0])) * scale));
    kept.assign(row.size(), true);
    num_kept = static_cast<int64_t>(row.size());
    if (!greedy) cut(choice);
    total = std::accumulate(weights.begin(), weights.end(), 0.0);
  }

  float logprob(int32_t id) const {
    if (!kept[static_cast<size_t>(id)]) return -kInf;
    return static_cast<float>((double{at(id)} - at(order[0])) * scale - std::log(total));
  }

  /// How far outside of its interval the draw for `id` lies.
  double miss(int32_t id, double uniform) const {
    double before = 0.0;
    for (int32_t i = 0; i < id; ++i) before += weights[static_cast<size_t>(i)];
    if (weights[static_cast<size_t>(id)] == 0.0) return 1.0;
    const double after = before + weights[static_cast<size_t>(id)];
    return std::max({0.0, before / total - uniform, uniform - after / total});
  }

 private:
  float at(int32_t id) const { return logits[static_cast<size_t>(id)]; }

  static std::vector<float> edited(std::vector<float> row, const Wish& wish) {
    const SampleRow& choice = wish.row;
    if (choice.given_token >= 0) return row;
    for (const auto& [id, bias] : wish.biases) row[static_cast<size_t>(id)] += bias;
    for (const int32_t id : wish.masked) row[static_cast<size_t>(id)] = -kInf;
    std::set<int32_t> seen(wish.prompt.begin(), wish.prompt.end());
    seen.insert(wish.output.begin(), wish.output.end());
    if (choice.repetition_penalty != 1.0f) {
      for (const int32_t id : seen) {
        float& logit = row[static_cast<size_t>(id)];
        logit = logit > 0.0f ? logit / choice.repetition_penalty : logit * choice.repetition_penalty;
      }
    }
    std::map<int32_t, int> counts;
    for (const int32_t id : wish.output) ++counts[id];
    for (const auto& [id, count] : counts) {
      volatile float frequency = choice.frequency_penalty * static_cast<float>(count);  // rounded, not fused
      row[static_cast<size_t>(id)] -= frequency;
      row[static_cast<size_t>(id)] -= choice.presence_penalty;
    }
    return row;
  }

  void cut(const SampleRow& choice) {
    size_t count = order.size();
    if (choice.top_k > 0) count = std::min(count, static_cast<size_t>(choice.top_k));
    double mass = 0.0;
    for (size_t i = 0; i < count; ++i) mass += weights[static_cast<size_t>(order[i])];
    if (choice.top_p < 1.0f) {
      double before = 0.0;
      for (size_t i = 0; i < count; ++i) {
        nearest_cut = std::min(nearest_cut, std::abs(before / mass - choice.top_p));
        if (i > 0 && before >= double{choice.top_p} * mass) count = i;
        if (i < count) before += weights[static_cast<size_t>(order[i])];
      }
    }
    num_kept = 0;
    for (size_t i = 0; i < order.size(); ++i) {
      const auto id = static_cast<size_t>(order[i]);
      if (choice.min_p > 0.0f) nearest_cut = std::min(nearest_cut, std::abs(weights[id] - choice.min_p));
      kept[id] = i < count && !(weights[id] < choice.min_p);
      if (!kept[id]) weights[id] = 0.0;
      num_kept += kept[id] ? 1 : 0;
    }
  }
};

/// How draws compared, over a test.
struct Draws {
  int compared = 0;
  int at_a_border = 0;
};

testing::AssertionResult same_logprob(float got, float expected) {
  if (std::isinf(expected) && got == expected) return testing::AssertionSuccess();
  return test::near(got, expected, kLogprobTolerance);
}

void expect_like(const Oracle& oracle, const Oracle& reported, const Answer& got, const Wish& wish, Draws* draws) {
  const SampleRow& row = wish.row;
  ASSERT_EQ(got.token.finite, 1);
  const int32_t token = got.token.token;
  ASSERT_GE(token, 0);
  ASSERT_LT(token, static_cast<int32_t>(oracle.order.size()));
  if (row.given_token >= 0) {
    ASSERT_EQ(token, row.given_token);
  } else if (row.temperature < 1e-5f) {
    ASSERT_EQ(token, oracle.order[0]);
  } else {
    const double uniform = cpu::uniform_draw(row.seed, row.sequence, row.position);
    const double miss = oracle.miss(token, uniform);
    ASSERT_LE(miss, 1e-6) << "token " << token << ", draw " << uniform;
    ++draws->compared;
    if (miss > 0.0) ++draws->at_a_border;
  }
  ASSERT_TRUE(same_logprob(got.token.logprob, reported.logprob(token))) << "token " << token;
  if (row.num_logprobs < 0) {
    ASSERT_TRUE(got.candidates.empty());
    return;
  }
  const int32_t chosen_place = reported.place[static_cast<size_t>(token)];
  const int64_t wanted = std::min<int64_t>(row.num_logprobs, static_cast<int64_t>(reported.order.size()));
  std::vector<std::pair<int32_t, int32_t>> expected = {{token, chosen_place}};
  const int64_t whole = std::min(wanted, reported.num_kept);
  for (int32_t place = 0; place < whole; ++place) {
    if (place != chosen_place) expected.emplace_back(reported.order[static_cast<size_t>(place)], place);
  }
  int32_t place = static_cast<int32_t>(whole);
  for (int32_t id = 0; place < wanted; ++id) {
    if (!reported.kept[static_cast<size_t>(id)]) expected.emplace_back(id, place++);
  }
  ASSERT_EQ(got.candidates.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const SampledCandidate& candidate = got.candidates[i];
    ASSERT_EQ(candidate.token, expected[i].first) << "candidate " << i;
    ASSERT_EQ(candidate.rank, expected[i].second + 1) << "candidate " << i;
    ASSERT_TRUE(same_logprob(candidate.logprob, reported.logprob(candidate.token))) << "candidate " << i;
  }
}

/// Compare all rows with the definition, but where rounding may decide: there both answers are right.
Draws expect_all_like(const std::vector<std::vector<float>>& logits, const std::vector<Wish>& wishes,
                      const std::vector<Answer>& got) {
  Draws draws;
  for (size_t r = 0; r < wishes.size(); ++r) {
    SCOPED_TRACE(testing::Message() << "row " << r << ", V=" << logits[r].size()
                                    << " temperature=" << wishes[r].row.temperature << " top_k=" << wishes[r].row.top_k
                                    << " top_p=" << wishes[r].row.top_p << " min_p=" << wishes[r].row.min_p
                                    << " num_logprobs=" << wishes[r].row.num_logprobs
                                    << " raw=" << wishes[r].row.raw_logprobs);
    const Oracle oracle(logits[r], wishes[r]);
    if (oracle.nearest_cut < 1e-6) continue;
    Wish untouched;
    untouched.row.temperature = 0.0f;
    const bool raw = wishes[r].row.raw_logprobs != 0 && wishes[r].row.given_token < 0;
    expect_like(oracle, raw ? Oracle(logits[r], untouched) : oracle, got[r], wishes[r], &draws);
  }
  return draws;
}

Wish greedy(int32_t num_logprobs = -1) {
  Wish wish;
  wish.row.temperature = 0.0f;
  wish.row.num_logprobs = num_logprobs;
  return wish;
}

std::vector<float> random_logits(size_t size, uint32_t seed, float scale = 3.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> logits(size);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

Wish random_wish(std::mt19937& generator, int32_t vocabulary) {
  const auto chance = [&](int percent) { return static_cast<int>(generator() % 100) < percent; };
  const auto id = [&](int32_t below) {
    return static_cast<int32_t>(generator() % static_cast<uint32_t>(std::min(below, vocabulary)));
  };
  Wish wish;
  SampleRow& row = wish.row;
  row.temperature = chance(20) ? 0.0f : 0.3f + 0.01f * static_cast<float>(generator() % 200);
  if (chance(40)) row.top_p = 0.05f + 0.01f * static_cast<float>(generator() % 95);
  if (chance(30)) row.top_k = 1 + static_cast<int32_t>(generator() % static_cast<uint32_t>(2 * vocabulary));
  if (chance(30)) row.top_k = 1 + static_cast<int32_t>(generator() % 60);
  if (chance(30)) row.min_p = 0.001f * static_cast<float>(generator() % 400);
  if (chance(30)) row.presence_penalty = 0.7f;
  if (chance(30)) row.frequency_penalty = -0.3f;
  if (chance(30)) row.repetition_penalty = 1.3f;
  for (int n = 0; chance(80) && n < 40; ++n) wish.prompt.push_back(id(40));
  for (int n = 0; chance(80) && n < 40; ++n) wish.output.push_back(id(30));
  for (int n = 0; chance(60) && n < 5; ++n) wish.masked.push_back(id(vocabulary));
  if (vocabulary < 8) wish.masked.clear();
  for (int n = 0; chance(60) && n < 5; ++n) wish.biases.push_back({id(vocabulary), chance(50) ? 5.0f : -5.0f});
  row.seed = generator() * uint64_t{0x100000001};
  row.sequence = generator() % 3;
  row.position = generator() % 1000;
  row.num_logprobs = chance(50) ? -1 : static_cast<int32_t>(generator() % 21);
  if (chance(10)) row.num_logprobs = static_cast<int32_t>(generator() % static_cast<uint32_t>(vocabulary + 3));
  if (row.num_logprobs > 6000) row.num_logprobs = 6000;
  row.raw_logprobs = chance(20) ? 1 : 0;
  if (chance(10)) row.given_token = id(vocabulary);
  return wish;
}

TEST(AcceleratorSample, mixed_features_give_what_the_definition_gives) {
  QUIRE_NEED_ACCELERATOR();
  Draws all;
  for (const int32_t vocabulary : {1, 2, 3, 50, 64, 300, 511, 513, 1025, 4097, 8192, 20000, 50257}) {
    std::mt19937 generator(17 + static_cast<uint32_t>(vocabulary));
    const size_t count = vocabulary > 10000 ? 60 : 200;
    std::vector<std::vector<float>> logits;
    std::vector<Wish> wishes;
    for (size_t i = 0; i < count; ++i) {
      logits.push_back(random_logits(static_cast<size_t>(vocabulary), generator(), i % 3 == 0 ? 0.5f : 4.0f));
      wishes.push_back(random_wish(generator, vocabulary));
    }
    const Draws draws = expect_all_like(logits, wishes, sample(logits, wishes, vocabulary % 2 == 0 ? 4 : 3));
    all.compared += draws.compared;
    all.at_a_border += draws.at_a_border;
  }
  EXPECT_GT(all.compared, 1000);
  EXPECT_LE(all.at_a_border, 3) << "of " << all.compared;
  RecordProperty("draws", all.compared);
  RecordProperty("draws_at_a_border", all.at_a_border);
}

TEST(AcceleratorSample, large_vocabularies_give_what_the_definition_gives) {
  QUIRE_NEED_ACCELERATOR();
  for (const size_t vocabulary : {size_t{128256}, size_t{151936}, size_t{262144}}) {
    for (const float scale : {0.1f, 1.0f, 6.0f}) {
      std::vector<Wish> wishes;
      const auto add = [&](const std::function<void(SampleRow&)>& set) {
        Wish wish;
        wish.row.position = wishes.size();
        wish.row.num_logprobs = 5;
        set(wish.row);
        wishes.push_back(wish);
      };
      add([](SampleRow&) {});
      add([](SampleRow& row) { row.top_p = 0.9f; });
      add([](SampleRow& row) { row.top_p = 0.5f; });
      add([](SampleRow& row) { row.top_p = 1e-6f; });
      add([](SampleRow& row) { row.top_p = 0.999999f; });
      add([](SampleRow& row) { row.top_k = 1; });
      add([](SampleRow& row) { row.top_k = 50; });
      add([](SampleRow& row) { row.top_k = 1000; });
      add([](SampleRow& row) { row.top_k = 100000; });
      add([](SampleRow& row) { row.top_k = 1 << 30; });
      add([](SampleRow& row) { row.min_p = 0.02f; });
      add([](SampleRow& row) { row.top_k = 30000, row.top_p = 0.7f, row.min_p = 0.001f; });
      add([](SampleRow& row) { row.top_k = 40, row.top_p = 0.8f, row.min_p = 0.05f, row.temperature = 0.6f; });
      add([](SampleRow& row) { row.top_p = 0.95f, row.raw_logprobs = 1; });
      add([](SampleRow& row) { row.given_token = 77, row.num_logprobs = 20; });
      add([](SampleRow& row) { row.temperature = 0.0f, row.num_logprobs = 9000; });
      const std::vector<std::vector<float>> logits(wishes.size(), random_logits(vocabulary, 3, scale));
      expect_all_like(logits, wishes, sample(logits, wishes));
    }
  }
}

TEST(AcceleratorSample, neighbours_and_the_place_in_the_batch_change_nothing) {
  QUIRE_NEED_ACCELERATOR();
  for (const int32_t vocabulary : {9000, 32001}) {
    std::mt19937 generator(5);
    std::vector<std::vector<float>> logits;
    std::vector<Wish> wishes;
    for (uint32_t i = 0; i < 300; ++i) {
      logits.push_back(random_logits(static_cast<size_t>(vocabulary), i, i % 2 == 0 ? 1.0f : 3.0f));
      wishes.push_back(random_wish(generator, vocabulary));
    }
    const std::vector<Answer> together = sample(logits, wishes);
    EXPECT_TRUE(together == sample(logits, wishes)) << "not even twice the same";
    for (size_t i = 0; i < logits.size(); i += 7) {
      EXPECT_TRUE(sample_one(logits[i], wishes[i]) == together[i]) << "row " << i;
    }
  }
}

TEST(AcceleratorSample, a_recorded_graph_serves_rows_that_change) {
  QUIRE_NEED_ACCELERATOR();
  constexpr int32_t kVocabulary = 5000;
  constexpr size_t kRows = 9;
  Call call(kRows, kVocabulary, 32);
  const auto stream = test::accelerator()->create_stream();
  test::accelerator()->begin_recording(*stream);
  call.enqueue(*stream);
  const auto graph = test::accelerator()->end_recording(*stream);
  std::mt19937 generator(6);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::vector<float>> logits;
    std::vector<Wish> wishes;
    for (size_t r = 0; r < kRows; ++r) {
      logits.push_back(random_logits(kVocabulary, generator(), 2.0f));
      wishes.push_back(random_wish(generator, kVocabulary));
      wishes.back().row.num_logprobs = std::min(wishes.back().row.num_logprobs, 31);
    }
    call.fill(logits, wishes);
    graph->launch(*stream);
    stream->synchronize();
    expect_all_like(logits, wishes, call.answers());
  }
}

TEST(AcceleratorSample, hostile_rows_give_what_the_definition_gives) {
  QUIRE_NEED_ACCELERATOR();
  for (const size_t vocabulary : {size_t{3}, size_t{5000}, size_t{50257}, size_t{128256}}) {
    const size_t last = vocabulary - 1;
    std::vector<std::vector<float>> kinds;
    kinds.emplace_back(vocabulary, 1.5f);
    kinds.emplace_back(vocabulary, 0.0f);
    for (size_t i = 0; i < vocabulary; i += 2) kinds.back()[i] = -0.0f;
    kinds.emplace_back(vocabulary, -kInf);
    kinds.back()[last] = -3.0f;
    kinds.emplace_back(vocabulary, -kInf);
    for (size_t i = 0; i < vocabulary; i += 3) kinds.back()[i] = static_cast<float>(i % 7);
    kinds.push_back(random_logits(vocabulary, 4, 3.0f));
    for (float& logit : kinds.back()) logit = std::round(logit);  // thousands of ties
    kinds.push_back(random_logits(vocabulary, 5, 1.0f));
    kinds.back()[last] = 40.0f;
    kinds.push_back(random_logits(vocabulary, 6, 1e4f));
    kinds.push_back(random_logits(vocabulary, 7, 1e-6f));
    kinds.emplace_back(vocabulary, -std::numeric_limits<float>::max());
    kinds.back()[last / 2] = std::numeric_limits<float>::max();
    std::vector<std::vector<float>> logits;
    std::vector<Wish> wishes;
    std::mt19937 generator(8);
    for (const std::vector<float>& kind : kinds) {
      for (int n = 0; n < 8; ++n) {
        Wish wish;
        SampleRow& row = wish.row;
        row.position = static_cast<uint64_t>(n);
        row.num_logprobs = n;
        if (n == 1) row.top_k = 2000;
        if (n == 2) row.top_p = 0.431f;
        if (n == 3) row.top_p = 1e-6f;
        if (n == 4) row.min_p = 0.3001f;
        if (n == 5) row.top_k = 37, row.top_p = 0.7f;
        if (n == 6) row.temperature = 0.0f;
        if (n == 7) row.given_token = static_cast<int32_t>(last / 2);
        logits.push_back(kind);
        wishes.push_back(wish);
      }
    }
    expect_all_like(logits, wishes, sample(logits, wishes));
  }
}

TEST(AcceleratorSample, long_lists_penalize_each_token_once) {
  QUIRE_NEED_ACCELERATOR();
  constexpr size_t kVocabulary = 50257;
  std::mt19937 generator(10);
  std::vector<std::vector<float>> logits;
  std::vector<Wish> wishes;
  for (uint32_t i = 0; i < 8; ++i) {
    logits.push_back(random_logits(kVocabulary, i, 2.0f));
    Wish wish;
    for (int n = 0; n < 4000; ++n) wish.prompt.push_back(static_cast<int32_t>(generator() % 3000));
    for (int n = 0; n < 3000; ++n)
      wish.output.push_back(static_cast<int32_t>(generator() % kVocabulary / (1 + n % 90)));
    for (int n = 0; n < 700; ++n) {
      wish.biases.push_back({static_cast<int32_t>(generator() % 600), 0.01f * static_cast<float>(generator() % 700)});
    }
    for (int n = 0; n < 900; ++n) wish.masked.push_back(static_cast<int32_t>(generator() % kVocabulary));
    wish.row.repetition_penalty = 1.2f;
    wish.row.frequency_penalty = 0.13f;
    wish.row.presence_penalty = -0.4f;
    wish.row.num_logprobs = 3000;
    wish.row.raw_logprobs = i % 4 == 3 ? 1 : 0;
    wish.row.temperature = i % 2 == 0 ? 0.0f : 1.0f;
    wishes.push_back(wish);
  }
  expect_all_like(logits, wishes, sample(logits, wishes));
}

TEST(AcceleratorSample, filters_keep_exactly_the_defined_tokens) {
  QUIRE_NEED_ACCELERATOR();
  // Probabilities 0.4, 0.3, 0.2, 0.1, out of order.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  using Tokens = std::set<int32_t>;
  const auto kept = [&](int32_t top_k, float top_p, float min_p) {
    Wish wish;
    wish.row.top_k = top_k;
    wish.row.top_p = top_p;
    wish.row.min_p = min_p;
    std::vector<Wish> wishes(300, wish);
    for (size_t i = 0; i < wishes.size(); ++i) wishes[i].row.position = i;
    Tokens tokens;
    for (const Answer& answer : sample(std::vector<std::vector<float>>(300, logits), wishes)) {
      tokens.insert(answer.token.token);
    }
    return tokens;
  };
  EXPECT_EQ(kept(-1, 1.0f, 0.0f), (Tokens{0, 1, 2, 3}));
  EXPECT_EQ(kept(1, 1.0f, 0.0f), (Tokens{1}));
  EXPECT_EQ(kept(3, 1.0f, 0.0f), (Tokens{1, 2, 3}));
  EXPECT_EQ(kept(-1, 0.01f, 0.0f), (Tokens{1})) << "at least one token is kept";
  EXPECT_EQ(kept(-1, 0.41f, 0.0f), (Tokens{1, 3})) << "the token that passes top_p is kept";
  EXPECT_EQ(kept(-1, 0.69f, 0.0f), (Tokens{1, 3}));
  EXPECT_EQ(kept(-1, 0.71f, 0.0f), (Tokens{1, 2, 3}));
  EXPECT_EQ(kept(2, 0.71f, 0.0f), (Tokens{1, 3})) << "top_p is a share of what top_k left: 4/7 and 3/7";
  EXPECT_EQ(kept(2, 0.5f, 0.0f), (Tokens{1})) << "of 4/7 and 3/7 the first passes one half";
  EXPECT_EQ(kept(-1, 1.0f, 0.4f), (Tokens{1, 2, 3})) << "0.2 >= 0.4 * 0.4 > 0.1";
  EXPECT_EQ(kept(-1, 1.0f, 0.8f), (Tokens{1}));
  EXPECT_EQ(kept(-1, 1.0f, 1.0f), (Tokens{1}));
}

TEST(AcceleratorSample, draws_follow_the_probabilities) {
  QUIRE_NEED_ACCELERATOR();
  // Chi-square of 31 degrees of freedom: above 68 once in 10^4; the seeds are fixed.
  constexpr size_t kTokens = 32;
  constexpr size_t kVocabulary = 3000;
  constexpr size_t kRows = 1000;
  std::vector<float> logits(kVocabulary, -kInf);
  const std::vector<float> few = random_logits(kTokens, 9, 1.0f);
  for (size_t i = 0; i < kTokens; ++i) logits[i * 91] = few[i];
  const std::vector<std::vector<float>> same(kRows, logits);
  for (const uint64_t seed : {uint64_t{0}, uint64_t{0x123456789abcdef}}) {
    for (const bool filtered : {false, true}) {
      Wish wish;
      wish.row.temperature = 0.7f;
      wish.row.seed = seed;
      wish.row.sequence = 2;
      if (filtered) wish.row.top_p = 0.99999f;
      const Oracle oracle(logits, wish);
      std::vector<Wish> wishes(kRows, wish);
      std::map<int32_t, int> counts;
      constexpr size_t kDraws = 100000;
      for (size_t i = 0; i < kDraws; i += kRows) {
        for (size_t r = 0; r < kRows; ++r) wishes[r].row.position = i + r;
        for (const Answer& answer : sample(same, wishes)) ++counts[answer.token.token];
      }
      EXPECT_EQ(counts.size(), kTokens);
      double chi_square = 0.0;
      for (size_t i = 0; i < kTokens; ++i) {
        const auto id = static_cast<int32_t>(i * 91);
        const double expected = kDraws * oracle.weights[static_cast<size_t>(id)] / oracle.total;
        chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
      }
      EXPECT_LT(chi_square, 68.0) << "seed " << seed << ", filtered " << filtered;
    }
  }
}

TEST(AcceleratorSample, logits_that_are_not_numbers_choose_no_token) {
  QUIRE_NEED_ACCELERATOR();
  const std::vector<float> good = random_logits(5000, 14);
  for (const size_t place : {size_t{0}, size_t{4095}, size_t{4999}}) {
    for (const float bad : {kNan, -kNan, kInf}) {
      std::vector<float> logits = good;
      logits[place] = bad;
      Wish cut;
      cut.row.top_p = 0.5f;
      cut.row.num_logprobs = 3;
      Wish hidden = cut;
      hidden.masked = {static_cast<int32_t>(place)};
      Wish biased = greedy();
      biased.biases = {{static_cast<int32_t>(place), -kInf}};
      Wish raw = hidden;
      raw.row.raw_logprobs = 1;
      const std::vector<Answer> answers = sample({good, logits, logits, logits, logits, logits, good},
                                                 {cut, cut, greedy(), hidden, biased, raw, greedy(2)});
      EXPECT_EQ(answers[0].token.finite, 1);
      EXPECT_EQ(answers[6].token.finite, 1);
      for (size_t r = 1; r < 6; ++r) {
        EXPECT_EQ(answers[r].token.finite, 0) << "row " << r;
        EXPECT_TRUE(answers[r].candidates.empty());
      }
    }
  }
  EXPECT_EQ(sample_one(std::vector<float>(100, -kInf), greedy()).token.finite, 0);
  Wish masked = greedy();
  masked.masked = {0, 1, 2};
  EXPECT_EQ(sample_one({1.0f, 2.0f, 3.0f}, masked).token.finite, 0);
}

}  // namespace
}  // namespace quire
