#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "accelerator.h"

namespace quire {
namespace {

using test::accelerator;
using test::near;
using test::Numbers;
using test::Shared;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct RouteCase {
  int64_t tokens = 1;
  int64_t experts = 8;
  int32_t top_k = 2;
  int32_t groups = 1;
  int32_t top_groups = 1;
  RouterScoring scoring = RouterScoring::kSoftmax;
  GroupScoring group_scoring = GroupScoring::kBest;
  bool renormalize = false;
  bool bias = false;
  int64_t gap = 0;
};

struct Routed {
  Shared<int32_t> experts;
  Shared<float> weights;
};

Routed run(Backend& backend, const RouteCase& c, Numbers& logits, Numbers& bias) {
  const auto size = static_cast<size_t>(c.tokens * c.top_k);
  Routed routed{Shared<int32_t>(size + 16, -7), Shared<float>(size + 16, -7.0f)};
  const auto stream = backend.create_stream();
  backend.ops().route({.logits = logits.tensor(),
                       .choice_bias = c.bias ? bias.vector() : Tensor{},
                       .scoring = c.scoring,
                       .renormalize = c.renormalize,
                       .num_groups = c.groups,
                       .top_groups = c.top_groups,
                       .group_scoring = c.group_scoring,
                       .scale = 1.25f,
                       .top_k = c.top_k,
                       .experts = routed.experts.data(),
                       .weights = routed.weights.data()},
                      *stream);
  stream->synchronize();
  for (size_t i = size; i < size + 16; ++i) EXPECT_TRUE(routed.experts[i] == -7 && routed.weights[i] == -7.0f);
  return routed;
}

/// Against the processor, whose route op is the definition.
void check_route(const RouteCase& c, Numbers& logits, Numbers& bias) {
  SCOPED_TRACE(testing::Message() << "T=" << c.tokens << " E=" << c.experts << " k=" << c.top_k
                                  << " groups=" << c.groups << " sigmoid=" << (c.scoring == RouterScoring::kSigmoid));
  static const auto cpu = create_backend("cpu:portable", {.num_threads = 1});
  const Routed got = run(*accelerator(), c, logits, bias);
  const Routed expected = run(*cpu, c, logits, bias);
  for (size_t i = 0; i < static_cast<size_t>(c.tokens * c.top_k); ++i) {
    ASSERT_TRUE(near(got.weights[i], expected.weights[i], 2e-6)) << i;
    if (std::isnan(expected.weights[i]) || got.experts[i] == expected.experts[i]) continue;
    // Exponentials may differ in their last bit, and so may turn the order of two that are almost equal.
    const int64_t token = static_cast<int64_t>(i) / c.top_k;
    const float difference = logits.get(token, got.experts[i]) - logits.get(token, expected.experts[i]);
    ASSERT_TRUE(!c.bias && difference != 0.0f && std::abs(difference) < 1e-4f) << i;
  }
}

void check_random(RouteCase c) {
  for (const bool renormalize : {false, true}) {
    for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
      c.renormalize = renormalize;
      c.scoring = scoring;
      Numbers logits = Numbers::random(DType::kFloat32, c.tokens, c.experts, 11, c.gap, 1.5f);
      Numbers bias = Numbers::random(DType::kFloat32, 1, c.experts, 12, 0, 0.2f);
      check_route(c, logits, bias);
    }
  }
}

TEST(AcceleratorRouteTest, chooses_as_the_processor_does) {
  QUIRE_NEED_ACCELERATOR();
  check_random({.tokens = 1, .experts = 1, .top_k = 1});
  check_random({.tokens = 1, .experts = 8, .top_k = 2});
  check_random({.tokens = 7, .experts = 8, .top_k = 8});
  check_random({.tokens = 33, .experts = 60, .top_k = 4, .gap = 5});
  check_random({.tokens = 5, .experts = 64, .top_k = 64});
  check_random({.tokens = 130, .experts = 128, .top_k = 8, .bias = true});
  check_random({.tokens = 9, .experts = 257, .top_k = 6, .bias = true, .gap = 1});
  check_random({.tokens = 1025, .experts = 512, .top_k = 10});
  check_random({.tokens = 3, .experts = 2048, .top_k = 40});
}

TEST(AcceleratorRouteTest, chooses_among_the_best_groups_only) {
  QUIRE_NEED_ACCELERATOR();
  for (const GroupScoring scoring : {GroupScoring::kBest, GroupScoring::kSumOfBestTwo}) {
    for (const bool bias : {false, true}) {
      check_random({.tokens = 65,
                    .experts = 256,
                    .top_k = 8,
                    .groups = 8,
                    .top_groups = 4,
                    .group_scoring = scoring,
                    .bias = bias});
      check_random({.tokens = 5,
                    .experts = 160,
                    .top_k = 6,
                    .groups = 8,
                    .top_groups = 3,
                    .group_scoring = scoring,
                    .bias = bias});
      check_random({.tokens = 5,
                    .experts = 12,
                    .top_k = 2,
                    .groups = 12,
                    .top_groups = 2,
                    .group_scoring = scoring,
                    .bias = bias});
      check_random({.tokens = 5,
                    .experts = 120,
                    .top_k = 9,
                    .groups = 40,
                    .top_groups = 3,
                    .group_scoring = scoring,
                    .bias = bias});
    }
  }
}

TEST(AcceleratorRouteTest, ties_go_to_the_smaller_id) {
  QUIRE_NEED_ACCELERATOR();
  for (const auto& [experts, groups] : {std::pair<int64_t, int32_t>{8, 1}, {64, 1}, {256, 8}}) {
    RouteCase c{.tokens = 50, .experts = experts, .top_k = 6, .groups = groups, .top_groups = groups > 1 ? 3 : 1};
    Numbers logits = Numbers::random(DType::kFloat32, c.tokens, experts, 5);
    Numbers bias(DType::kFloat32, 1, experts);
    for (int64_t t = 0; t < c.tokens; ++t) {
      for (int64_t e = 0; e < experts; ++e) logits.set(t, e, t == 0 ? 0.0f : std::round(logits.get(t, e)));
    }
    for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
      for (const GroupScoring group_scoring : {GroupScoring::kBest, GroupScoring::kSumOfBestTwo}) {
        c.scoring = scoring;
        c.group_scoring = group_scoring;
        check_route(c, logits, bias);
      }
    }
  }
}

TEST(AcceleratorRouteTest, broken_tokens_get_nan_weights_and_distinct_experts) {
  QUIRE_NEED_ACCELERATOR();
  RouteCase c{.tokens = 4, .experts = 40, .top_k = 5, .bias = true};
  Numbers logits = Numbers::random(DType::kFloat32, 4, 40, 5);
  Numbers bias = Numbers::random(DType::kFloat32, 1, 40, 6);
  logits.set(1, 39, std::numeric_limits<float>::quiet_NaN());
  logits.set(2, 0, kInfinity);
  for (int64_t e = 0; e < 40; ++e) logits.set(3, e, -kInfinity);
  const Routed routed = run(*accelerator(), c, logits, bias);
  for (size_t t = 0; t < 4; ++t) {
    std::vector<int32_t> experts(routed.experts.begin() + static_cast<int64_t>(5 * t),
                                 routed.experts.begin() + static_cast<int64_t>(5 * t + 5));
    std::sort(experts.begin(), experts.end());
    EXPECT_TRUE(std::adjacent_find(experts.begin(), experts.end()) == experts.end());
    EXPECT_TRUE(experts.front() >= 0 && experts.back() < 40);
    for (size_t j = 0; j < 5; ++j) EXPECT_EQ(std::isnan(routed.weights[5 * t + j]), t > 0) << t;
  }
}

TEST(AcceleratorRouteTest, an_expert_that_the_bias_forbids_comes_last) {
  QUIRE_NEED_ACCELERATOR();
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    RouteCase c{.tokens = 3, .experts = 6, .top_k = 6, .scoring = scoring, .bias = true};
    Numbers logits = Numbers::random(DType::kFloat32, 3, 6, 5);
    Numbers bias = Numbers::random(DType::kFloat32, 1, 6, 6);
    bias.set(0, 1, -kInfinity);
    bias.set(0, 4, -kInfinity);
    check_route(c, logits, bias);
  }
}

}  // namespace
}  // namespace quire
