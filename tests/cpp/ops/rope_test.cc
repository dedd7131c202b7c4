#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;

using RopeTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(RopeTest);

struct Tables {
  Tables(int64_t positions, int64_t pairs) : cos({positions, pairs}, 3), sin({positions, pairs}, 3) {
    for (int64_t p = 0; p < positions; ++p) {
      for (int64_t i = 0; i < pairs; ++i) {
        const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / pairs);
        cos.at(p, i) = static_cast<float>(std::cos(angle));
        sin.at(p, i) = static_cast<float>(std::sin(angle));
      }
    }
  }
  Floats cos, sin;
};

TEST_P(RopeTest, pairs_are_rotated_and_the_rest_of_a_head_stays) {
  constexpr int64_t kTokens = 5;
  constexpr int64_t kHeads = 3;
  const test::OpVector<int32_t> rows = {7, 0, 31, 3, 3};
  for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
    for (const int64_t pairs : {32, 40, 48, 56, 60, 64, 96, 128, 1, 3, 8, 13, 16, 20, 37}) {
      for (const int64_t rest : {0, 24, 5}) {
        const int64_t dim = 2 * pairs + rest;
        Tables tables(32, pairs);
        Floats x = Floats::random({kTokens, kHeads, dim}, 1, 9);
        const Floats before = x;
        RopeArgs args;
        args.x = x.tensor();
        args.rows = rows.data();
        args.cos = tables.cos.tensor();
        args.sin = tables.sin.tensor();
        args.layout = layout;
        args.out = args.x;
        machine.run(&Ops::rope, args);
        EXPECT_TRUE(x.gaps_untouched());
        for (int64_t token = 0; token < kTokens; ++token) {
          const int64_t position = rows[static_cast<size_t>(token)];
          for (int64_t head = 0; head < kHeads; ++head) {
            const int64_t base = head * dim;
            for (int64_t i = 0; i < pairs; ++i) {
              const int64_t first = base + (layout == RopeLayout::kHalf ? i : 2 * i);
              const int64_t second = layout == RopeLayout::kHalf ? first + pairs : first + 1;
              const double c = tables.cos.at(position, i);
              const double s = tables.sin.at(position, i);
              const double real = before.at(token, first) * c - before.at(token, second) * s;
              const double imaginary = before.at(token, second) * c + before.at(token, first) * s;
              // Three roundings of numbers of size 4 or less.
              ASSERT_TRUE(test::close(x.at(token, first), real, machine.tolerance(1e-6)))
                  << "pairs " << pairs << ", pair " << i;
              ASSERT_TRUE(test::close(x.at(token, second), imaginary, machine.tolerance(1e-6)))
                  << "pairs " << pairs << ", pair " << i;
            }
            for (int64_t i = 2 * pairs; i < dim; ++i) {
              ASSERT_EQ(x.at(token, base + i), before.at(token, base + i));
            }
          }
        }
      }
    }
  }
}

TEST_P(RopeTest, the_result_may_lie_elsewhere_with_other_strides) {
  constexpr int64_t kPairs = 5;
  constexpr int64_t kHeads = 3;
  Tables tables(8, kPairs);
  const test::OpVector<int32_t> rows = {6, 1};
  for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
    for (const int64_t rest : {0, 7}) {
      const int64_t dim = 2 * kPairs + rest;
      Floats in_place = Floats::random({2, kHeads, dim}, 3);
      Floats x = in_place;
      Floats out = Floats::random({2, kHeads, dim + 4}, 4);
      const Floats before = out;
      RopeArgs args{.x = x.tensor(),
                    .rows = rows.data(),
                    .cos = tables.cos.tensor(),
                    .sin = tables.sin.tensor(),
                    .layout = layout,
                    .out = out.tensor().columns(4, dim)};
      machine.run(&Ops::rope, args);
      args.x = args.out = in_place.tensor();
      machine.run(&Ops::rope, args);
      for (int64_t token = 0; token < 2; ++token) {
        for (int64_t head = 0; head < kHeads; ++head) {
          for (int64_t i = 0; i < dim; ++i) {
            ASSERT_EQ(out.at(token, head * (dim + 4) + 4 + i), in_place.at(token, head * dim + i)) << i;
          }
          for (int64_t i = 0; i < 4; ++i) {
            ASSERT_EQ(out.at(token, head * (dim + 4) + i), before.at(token, head * (dim + 4) + i));
          }
        }
      }
    }
  }
}

TEST_P(RopeTest, a_token_has_the_same_bits_alone_and_among_many) {
  constexpr int64_t kTokens = 300;
  constexpr int64_t kPairs = 36;
  Tables tables(kTokens, kPairs);
  test::OpVector<int32_t> rows;
  for (int32_t i = 0; i < kTokens; ++i) rows.push_back(i);
  for (const RopeLayout layout : {RopeLayout::kHalf, RopeLayout::kInterleaved}) {
    Floats x = Floats::random({kTokens, 4, 2 * kPairs}, 2);
    Floats alone = x;
    RopeArgs args;
    args.x = x.tensor();
    args.rows = rows.data();
    args.cos = tables.cos.tensor();
    args.sin = tables.sin.tensor();
    args.layout = layout;
    args.out = args.x;
    machine.run(&Ops::rope, args);
    for (const int32_t token : {0, 123, 299}) {
      args.x = args.out = alone.tensor().rows(token, 1);
      args.rows = &rows[static_cast<size_t>(token)];
      machine.run(&Ops::rope, args);
      EXPECT_TRUE(alone.row_equals(token, x, token));
    }
  }
}

}  // namespace
}  // namespace quire
