#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;

using NormTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(NormTest);

/// float32 sums of up to 5000 terms in several partial sums.
constexpr double kTolerance = 3e-6;

/// The definition in double, of one row; weight and bias may be null.
std::vector<double> expected_row(const NormArgs& args, const float* x, const float* weight, const float* bias,
                                 int64_t size) {
  double mean = 0.0;
  double squares = 0.0;
  for (int64_t i = 0; i < size; ++i) mean += x[i] / static_cast<double>(size);
  if (args.kind == NormKind::kRms) mean = 0.0;
  for (int64_t i = 0; i < size; ++i) squares += (x[i] - mean) * (x[i] - mean) / static_cast<double>(size);
  std::vector<double> out;
  for (int64_t i = 0; i < size; ++i) {
    const double scaled = (x[i] - mean) / std::sqrt(squares + args.eps);
    out.push_back(scaled * (weight == nullptr ? 1.0 : weight[i]) + (bias == nullptr ? 0.0 : bias[i]));
  }
  return out;
}

TEST_P(NormTest, every_width_gives_the_defined_result) {
  for (const int64_t width : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 130, 576, 896, 4099}) {
    for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
      for (const bool affine : {true, false}) {
        Floats x = Floats::random({3, width}, 1, 5, 3.0f);
        Floats weight = Floats::random({width}, 2);
        Floats bias = Floats::random({width}, 3);
        Floats out({3, width}, 2);
        NormArgs args;
        args.kind = kind;
        args.x = x.tensor();
        if (affine) args.weight = weight.tensor();
        if (affine) args.bias = bias.tensor();
        args.out = out.tensor();
        machine.run(&Ops::norm, args);
        EXPECT_TRUE(out.gaps_untouched());
        for (int64_t row = 0; row < 3; ++row) {
          const std::vector<double> expected =
              expected_row(args, x.row(row), affine ? weight.row(0) : nullptr, affine ? bias.row(0) : nullptr, width);
          for (int64_t i = 0; i < width; ++i) {
            ASSERT_TRUE(test::close(out.at(row, i), expected[static_cast<size_t>(i)], machine.tolerance(kTolerance)))
                << "width " << width << ", layer " << (kind == NormKind::kLayer) << ", column " << i;
          }
        }
      }
    }
  }
}

TEST_P(NormTest, heads_are_normalised_one_by_one_with_shared_or_own_weights) {
  constexpr int64_t kTokens = 4;
  constexpr int64_t kHeads = 3;
  for (const int64_t dim : {64, 80, 13}) {
    for (const bool own : {false, true}) {
      Floats x = Floats::random({kTokens, kHeads, dim}, 4, 11);
      Floats weight = own ? Floats::random({kHeads, dim}, 5) : Floats::random({dim}, 5);
      Floats out({kTokens, kHeads, dim});
      NormArgs args;
      args.x = x.tensor();
      args.weight = weight.tensor();
      args.out = out.tensor();
      machine.run(&Ops::norm, args);
      for (int64_t token = 0; token < kTokens; ++token) {
        for (int64_t head = 0; head < kHeads; ++head) {
          const std::vector<double> expected =
              expected_row(args, x.row(token) + head * dim, weight.row(own ? head : 0), nullptr, dim);
          for (int64_t i = 0; i < dim; ++i) {
            ASSERT_TRUE(test::close(out.at(token, head * dim + i), expected[static_cast<size_t>(i)],
                                    machine.tolerance(kTolerance)));
          }
        }
      }
    }
  }
}

TEST_P(NormTest, output_may_be_the_input_and_rows_do_not_depend_on_each_other) {
  // Enough rows for the pool.
  constexpr int64_t kRows = 150;
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const int64_t width : {577, 64}) {
      Floats x = Floats::random({kRows, width}, 6);
      Floats out({kRows, width});
      NormArgs args;
      args.kind = kind;
      args.x = x.tensor();
      args.out = out.tensor();
      machine.run(&Ops::norm, args);
      for (const int64_t row : {int64_t{0}, int64_t{77}, kRows - 1}) {
        args.x = args.out = x.tensor().rows(row, 1);
        machine.run(&Ops::norm, args);
        EXPECT_TRUE(x.row_equals(row, out, row));
      }
    }
  }
}

}  // namespace
}  // namespace quire
