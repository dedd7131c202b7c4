#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;
using test::kInf;
using test::kNan;

/// A route op with memory for what it gives.
struct Routing {
  Routing(Floats logits_of_tokens, RouteArgs what) : logits(std::move(logits_of_tokens)), args(what) {
    const size_t size = static_cast<size_t>(logits.rows() * args.top_k);
    experts.assign(size, -1);
    weights.assign(size, -1.0f);
  }

  void run(const test::OpMachine& machine) {
    args.logits = logits.tensor();
    args.experts = experts.data();
    args.weights = weights.data();
    machine.run(&Ops::route, args);
  }

  int32_t expert(int64_t token, int32_t j) const { return experts[static_cast<size_t>(token * args.top_k + j)]; }
  float weight(int64_t token, int32_t j) const { return weights[static_cast<size_t>(token * args.top_k + j)]; }

  void expect_distinct_and_in_range(int64_t token) const {
    std::set<int32_t> seen;
    for (int32_t j = 0; j < args.top_k; ++j) {
      ASSERT_GE(expert(token, j), 0);
      ASSERT_LT(expert(token, j), logits.row_size());
      ASSERT_TRUE(seen.insert(expert(token, j)).second) << "expert " << expert(token, j) << " twice";
    }
  }

  Floats logits;
  RouteArgs args;
  test::OpVector<int32_t> experts;
  test::OpVector<float> weights;
};

/// The numbers of `values` in falling order, the smaller of equals first.
std::vector<int32_t> ranked(const std::vector<double>& values) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  return order;
}

std::vector<double> scores_of(const Routing& routing, int64_t token) {
  std::vector<double> scores;
  double sum = 0.0;
  for (int64_t e = 0; e < routing.logits.row_size(); ++e) {
    const double logit = routing.logits.at(token, e);
    const bool sigmoid = routing.args.scoring == RouterScoring::kSigmoid;
    scores.push_back(sigmoid ? 1.0 / (1.0 + std::exp(-logit)) : std::exp(logit));
    sum += scores.back();
  }
  if (routing.args.scoring == RouterScoring::kSoftmax) {
    for (double& score : scores) score /= sum;
  }
  return scores;
}

/// The choice, with a group's judgement, in the order of the contract.
std::vector<int32_t> expected_experts(const Routing& routing, const std::vector<double>& scores) {
  const RouteArgs& args = routing.args;
  const size_t size = scores.size() / static_cast<size_t>(args.num_groups);
  std::vector<double> choice = scores;
  if (args.choice_bias) {
    for (size_t e = 0; e < choice.size(); ++e) choice[e] += args.choice_bias.as<const float>()[e];
  }
  std::vector<double> groups;
  for (size_t g = 0; g < static_cast<size_t>(args.num_groups); ++g) {
    std::vector<double> group(choice.begin() + static_cast<int64_t>(g * size),
                              choice.begin() + static_cast<int64_t>((g + 1) * size));
    std::sort(group.rbegin(), group.rend());
    groups.push_back(group[0] + (args.group_scoring == GroupScoring::kSumOfBestTwo && size > 1 ? group[1] : 0.0));
  }
  const std::vector<int32_t> best = ranked(groups);
  const std::set<int32_t> chosen(best.begin(), best.begin() + args.top_groups);
  std::vector<int32_t> experts;
  for (const int32_t e : ranked(choice)) {
    if (chosen.count(e / static_cast<int32_t>(size)) > 0) experts.push_back(e);
  }
  experts.resize(static_cast<size_t>(args.top_k));
  return experts;
}

void expect_right(const test::OpMachine& machine, const Routing& routing) {
  const RouteArgs& args = routing.args;
  for (int64_t token = 0; token < routing.logits.rows(); ++token) {
    const std::vector<double> scores = scores_of(routing, token);
    const std::vector<int32_t> experts = expected_experts(routing, scores);
    double sum = args.renormalize ? 0.0 : 1.0;
    for (const int32_t e : experts) sum += args.renormalize ? scores[static_cast<size_t>(e)] : 0.0;
    for (int32_t j = 0; j < args.top_k; ++j) {
      const int32_t e = experts[static_cast<size_t>(j)];
      ASSERT_EQ(routing.expert(token, j), e) << "token " << token << ", place " << j;
      const double weight = scores[static_cast<size_t>(e)] / sum * args.scale;
      ASSERT_NEAR(routing.weight(token, j), weight, machine.tolerance(2e-6) * weight)
          << "token " << token << ", place " << j;
    }
  }
}

using RouteTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(RouteTest);

TEST_P(RouteTest, the_best_experts_get_their_share) {
  for (const int32_t experts : {1, 2, 8, 60, 256}) {
    Floats bias = Floats::random({1, experts}, 9, 0, 0.2f);
    Tensor choice_bias = bias.tensor();
    choice_bias.rank = 1;
    choice_bias.shape = {experts};
    choice_bias.strides = {1};
    for (const int32_t top_k : {1, 2, 7, experts / 2, experts}) {
      if (top_k < 1 || top_k > experts) continue;
      for (const int64_t tokens : {1, 7, 257}) {
        for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
          for (const bool renormalize : {false, true}) {
            Routing routing(Floats::random({tokens, experts}, 4, 5, 1.5f),
                            {.choice_bias = renormalize ? choice_bias : Tensor(),
                             .scoring = scoring,
                             .renormalize = renormalize,
                             .scale = renormalize ? 2.5f : 1.0f,
                             .top_k = top_k});
            routing.run(machine);
            expect_right(machine, routing);
          }
        }
      }
    }
  }
}

struct Groups {
  int32_t experts;
  int32_t num_groups;
  int32_t top_groups;
  int32_t top_k;
};

TEST_P(RouteTest, only_experts_of_the_best_groups_are_chosen) {
  for (const Groups& groups : {Groups{256, 8, 4, 8}, Groups{160, 8, 3, 6}, Groups{60, 6, 2, 20}, Groups{8, 8, 3, 3},
                               Groups{8, 4, 4, 8}, Groups{6, 2, 1, 3}}) {
    Floats bias = Floats::random({1, groups.experts}, 9, 0, 0.3f);
    Tensor choice_bias = bias.tensor().rows(0, 1);
    choice_bias.rank = 1;
    choice_bias.shape = {groups.experts};
    choice_bias.strides = {1};
    for (const GroupScoring judged : {GroupScoring::kBest, GroupScoring::kSumOfBestTwo}) {
      for (const bool biased : {false, true}) {
        Routing routing(Floats::random({33, groups.experts}, 5),
                        {.choice_bias = biased ? choice_bias : Tensor(),
                         .scoring = biased ? RouterScoring::kSigmoid : RouterScoring::kSoftmax,
                         .renormalize = true,
                         .num_groups = groups.num_groups,
                         .top_groups = groups.top_groups,
                         .group_scoring = judged,
                         .scale = 16.0f,
                         .top_k = groups.top_k});
        routing.run(machine);
        expect_right(machine, routing);
      }
    }
  }
}

TEST_P(RouteTest, of_equals_the_smaller_id_is_taken) {
  for (const int32_t experts : {4, 8, 60}) {
    for (const int32_t num_groups : {1, 2, 4}) {
      Floats logits({7, experts});
      std::minstd_rand random(3);
      for (int64_t token = 0; token < 7; ++token) {
        for (int64_t e = 0; e < experts; ++e)
          logits.at(token, e) = token == 0 ? 0.5f : static_cast<float>(random() % 3);
      }
      Routing routing(std::move(logits), {.num_groups = num_groups,
                                          .top_groups = (num_groups + 1) / 2,
                                          .group_scoring = GroupScoring::kSumOfBestTwo,
                                          .top_k = std::max(1, experts / 2 - 1)});
      routing.run(machine);
      expect_right(machine, routing);
      for (int32_t j = 0; j < routing.args.top_k; ++j) EXPECT_EQ(routing.expert(0, j), j);
    }
  }
}

TEST_P(RouteTest, a_bias_of_minus_infinity_excludes_unless_nothing_else_is_left) {
  test::OpVector<float> bias = {-kInf, 0.0f, -kInf, -kInf};
  Routing routing(Floats::random({3, 4}, 2),
                  {.choice_bias = Tensor(bias.data(), DType::kFloat32, {4}), .renormalize = true, .top_k = 3});
  routing.run(machine);
  for (int64_t token = 0; token < 3; ++token) {
    EXPECT_EQ(routing.expert(token, 0), 1);
    EXPECT_EQ(routing.expert(token, 1), 0);
    EXPECT_EQ(routing.expert(token, 2), 2);
  }
}

TEST_P(RouteTest, scores_of_zero_do_not_divide_by_zero) {
  Routing routing(Floats({1, 8}, 0, -200.0f), {.scoring = RouterScoring::kSigmoid, .renormalize = true, .top_k = 2});
  routing.run(machine);
  EXPECT_EQ(routing.weight(0, 0), 0.0f);
  EXPECT_EQ(routing.weight(0, 1), 0.0f);
}

TEST_P(RouteTest, far_logits_neither_overflow_nor_vanish) {
  Floats logits({2, 4}, 0, -1e30f);
  logits.at(0, 2) = 3e38f;
  logits.at(1, 1) = logits.at(1, 3) = -5e3f;
  Routing routing(std::move(logits), {.top_k = 2});
  routing.run(machine);
  EXPECT_EQ(routing.expert(0, 0), 2);
  EXPECT_EQ(routing.weight(0, 0), 1.0f);
  EXPECT_EQ(routing.weight(0, 1), 0.0f);
  EXPECT_EQ(routing.weight(1, 0), 0.5f);
  EXPECT_EQ(routing.weight(1, 1), 0.5f);
}

TEST_P(RouteTest, a_token_that_is_not_a_number_gets_experts_and_poisoned_weights) {
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    for (const int32_t num_groups : {1, 4}) {
      for (const bool renormalize : {false, true}) {
        const RouteArgs args{.scoring = scoring,
                             .renormalize = renormalize,
                             .num_groups = num_groups,
                             .top_groups = num_groups / 2 + 1,
                             .group_scoring = GroupScoring::kSumOfBestTwo,
                             .top_k = 3};
        const Floats clean = Floats::random({5, 12}, 6);
        Floats broken = clean;
        broken.at(1, 11) = kNan;  // one logit, not the best
        for (int64_t e = 0; e < 12; ++e) broken.at(3, e) = kNan;
        Routing routing(clean, args), poisoned(broken, args);
        routing.run(machine);
        poisoned.run(machine);
        for (int64_t token = 0; token < 5; ++token) {
          poisoned.expect_distinct_and_in_range(token);
          for (int32_t j = 0; j < 3; ++j) {
            if (token == 1 || token == 3) {
              EXPECT_TRUE(std::isnan(poisoned.weight(token, j)));
            } else {
              EXPECT_EQ(poisoned.expert(token, j), routing.expert(token, j));
              EXPECT_EQ(poisoned.weight(token, j), routing.weight(token, j));
            }
          }
        }
      }
    }
  }
}

TEST_P(RouteTest, infinite_logits_choose_valid_experts) {
  for (const RouterScoring scoring : {RouterScoring::kSoftmax, RouterScoring::kSigmoid}) {
    Floats logits = Floats::random({3, 6}, 7);
    logits.at(0, 4) = kInf;
    for (int64_t e = 0; e < 6; ++e) logits.at(1, e) = -kInf;
    logits.at(2, 0) = -kInf;
    Routing routing(std::move(logits), {.scoring = scoring, .top_k = 4});
    routing.run(machine);
    for (int64_t token = 0; token < 3; ++token) routing.expect_distinct_and_in_range(token);
    EXPECT_FALSE(std::isnan(routing.weight(2, 0)));
  }
}

TEST_P(RouteTest, a_row_does_not_depend_on_the_others_nor_on_the_instruction_set) {
  const RouteArgs args{.renormalize = true, .num_groups = 8, .top_groups = 4, .top_k = 8};
  const Floats logits = Floats::random({300, 128}, 8);
  Routing together(logits, args), portable(logits, args);
  together.run(machine);
  portable.run(test::OpMachine("cpu:portable", 1));
  if (machine.is_cpu) {
    EXPECT_EQ(together.experts, portable.experts);
    EXPECT_EQ(together.weights, portable.weights);
  }
  for (const int64_t token : {0, 1, 150, 299}) {
    Floats row({1, 128});
    for (int64_t e = 0; e < 128; ++e) row.at(0, e) = logits.at(token, e);
    Routing alone(std::move(row), args);
    alone.run(machine);
    for (int32_t j = 0; j < 8; ++j) {
      EXPECT_EQ(alone.expert(0, j), together.expert(token, j));
      EXPECT_EQ(alone.weight(0, j), together.weight(token, j));
    }
  }
}

TEST_P(RouteTest, no_tokens_are_no_work) {
  Routing routing(Floats({0, 8}), {.top_k = 2});
  routing.run(machine);
}

}  // namespace
}  // namespace quire
