// Ops that treat each element by itself: embed, activation, add, clip, gather, logit_scale.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;
using test::kInf;
using test::kNan;
using test::OpVector;

using ElementwiseTest = test::OpTest;
QUIRE_TEST_EVERY_DEVICE(ElementwiseTest);

/// A table of every type from the same numbers; what it holds is returned as float.
template <typename T>
OpVector<T> table_of(const Floats& values, T (*convert)(float)) {
  OpVector<T> table;
  for (int64_t row = 0; row < values.rows(); ++row) {
    for (int64_t i = 0; i < values.row_size(); ++i) table.push_back(convert(values.at(row, i)));
  }
  return table;
}

TEST_P(ElementwiseTest, embed_reads_every_table_type_exactly) {
  const OpVector<int32_t> ids = {4, 0, 9, 9, 1};
  for (const int64_t width : {1, 7, 8, 17, 64, 576}) {
    const Floats values = Floats::random({12, width}, 1);
    OpVector<float> floats = table_of<float>(values, [](float x) { return x; });
    OpVector<BFloat16> bfloats = table_of<BFloat16>(values, to_bfloat16);
    OpVector<Float16> halves = table_of<Float16>(values, to_float16);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
      for (const bool accumulate : {false, true}) {
        Floats out({5, width}, 4, 0.25f);
        EmbedArgs args;
        void* const data = dtype == DType::kFloat32    ? static_cast<void*>(floats.data())
                           : dtype == DType::kBFloat16 ? static_cast<void*>(bfloats.data())
                                                       : static_cast<void*>(halves.data());
        args.table = Tensor(data, dtype, {12, width});
        args.ids = ids.data();
        args.offset = 2;
        args.scale = 1.5f;
        args.accumulate = accumulate;
        args.out = out.tensor();
        machine.run(&Ops::embed, args);
        EXPECT_TRUE(out.gaps_untouched());
        for (int64_t token = 0; token < 5; ++token) {
          const size_t row = static_cast<size_t>((ids[static_cast<size_t>(token)] + 2) * width);
          for (int64_t i = 0; i < width; ++i) {
            const size_t at = row + static_cast<size_t>(i);
            const float stored = dtype == DType::kFloat32    ? floats[at]
                                 : dtype == DType::kBFloat16 ? to_float(bfloats[at])
                                                             : to_float(halves[at]);
            const float expected = (accumulate ? 0.25f : 0.0f) + stored * 1.5f;
            // A GPU rounds product and sum once.
            ASSERT_TRUE(test::close(out.at(token, i), expected, machine.is_cpu ? 0.0 : 1e-6));
          }
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, embed_from_a_packed_matrix_equals_embed_from_its_table) {
  const OpVector<int32_t> ids = {69, 0, 31, 32, 33, 64};  // both sides of panel borders, and the last row
  const Floats values = Floats::random({70, 17}, 1);
  OpVector<BFloat16> table = table_of<BFloat16>(values, to_bfloat16);
  const Tensor matrix(table.data(), DType::kBFloat16, {70, 17});
  const PackedLinear packed =
      machine.backend->pack_linear({.parts = {matrix}, .dtype = DType::kBFloat16}, *machine.stream);
  Floats from_table({6, 17}, 4, 0.25f), from_packed({6, 17}, 4, 0.25f);
  machine.run(&Ops::embed, {.table = matrix, .ids = ids.data(), .scale = 1.5f, .out = from_table.tensor()});
  machine.run(&Ops::embed, {.packed = &packed, .ids = ids.data(), .scale = 1.5f, .out = from_packed.tensor()});
  EXPECT_TRUE(from_packed.gaps_untouched());
  for (int64_t token = 0; token < 6; ++token) {
    for (int64_t i = 0; i < 17; ++i) ASSERT_EQ(from_packed.at(token, i), from_table.at(token, i));
  }
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::kGelu: return 0.5 * x * (1.0 + std::erf(x / std::sqrt(2.0)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluQuick: return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kRelu: return std::max(0.0, x);
    case Activation::kRelu2: return x > 0.0 ? x * x : 0.0;
    default: return x / (1.0 + std::exp(-x));
  }
}

constexpr Activation kActivations[] = {Activation::kSilu,      Activation::kGelu, Activation::kGeluTanh,
                                       Activation::kGeluQuick, Activation::kRelu, Activation::kRelu2};

TEST_P(ElementwiseTest, activations_are_right_from_far_below_to_far_above_zero) {
  // Every step of 1/64 in [-30, 30], and beyond the range of exp.
  std::vector<float> inputs = {-1e30f, -500.0f, -100.0f, -89.0f, 89.0f, 100.0f, 1e5f, -1e-30f, 0.0f};
  for (float x = -30.0f; x <= 30.0f; x += 1.0f / 64.0f) inputs.push_back(x);
  const int64_t size = static_cast<int64_t>(inputs.size());
  for (const Activation kind : kActivations) {
    Floats x({1, size}), out({1, size});
    for (int64_t i = 0; i < size; ++i) x.at(0, i) = inputs[static_cast<size_t>(i)];
    ActivationArgs args;
    args.rule.kind = kind;
    args.x = x.tensor();
    args.out = out.tensor();
    machine.run(&Ops::activation, args);
    for (int64_t i = 0; i < size; ++i) {
      // Relative to 1 + |x|: below zero the result is a small difference of large terms.
      const double expected = activated(kind, x.at(0, i));
      ASSERT_LE(std::abs(out.at(0, i) - expected), machine.tolerance(4e-7) * std::max(1.0, std::abs(expected)))
          << "kind " << static_cast<int>(kind) << ", x " << x.at(0, i) << ", got " << out.at(0, i);
    }
  }
}

TEST_P(ElementwiseTest, gated_activations_multiply_by_the_second_half) {
  for (const int64_t width : {1, 5, 16, 33, 2048, 4864, 5003}) {
    for (const Activation kind : kActivations) {
      Floats x = Floats::random({3, 2 * width}, 3, 7);
      Floats out({3, width}, 1);
      ActivationArgs args;
      args.rule.kind = kind;
      args.rule.gated = true;
      args.x = x.tensor();
      args.out = out.tensor();
      machine.run(&Ops::activation, args);
      EXPECT_TRUE(out.gaps_untouched());
      for (int64_t row = 0; row < 3; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const double expected = activated(kind, x.at(row, i)) * x.at(row, width + i);
          ASSERT_TRUE(test::close(out.at(row, i), expected, machine.tolerance(1e-6)))
              << "width " << width << ", column " << i;
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, gated_activations_limit_both_halves_and_shift_the_second) {
  for (const int64_t width : {1, 17, 33, 2050}) {
    for (const Activation kind : kActivations) {
      for (const auto& [limit, offset] : {std::pair{7.0f, 1.0f}, {0.5f, 0.0f}, {0.0f, 1.0f}}) {
        Floats x = Floats::random({3, 2 * width}, 3, 7, 5.0f);
        Floats out({3, width}, 1);
        x.at(0, 0) = kInf;
        x.at(1, 0) = limit > 0.0f ? -1e30f : -3.0f;
        x.at(1, width) = limit > 0.0f ? -kInf : -3.0f;
        const ActivationRule rule{.kind = kind, .gated = true, .limit = limit, .offset = offset};
        machine.run(&Ops::activation, {.rule = rule, .x = x.tensor(), .out = out.tensor()});
        EXPECT_TRUE(out.gaps_untouched());
        for (int64_t row = 0; row < 3; ++row) {
          for (int64_t i = limit > 0.0f ? 0 : 1; i < width; ++i) {
            const double bound = limit > 0.0f ? limit : 1e300;
            const double other = std::clamp(double{x.at(row, width + i)}, -bound, bound) + offset;
            const double expected = activated(kind, std::min(double{x.at(row, i)}, bound)) * other;
            ASSERT_TRUE(test::close(out.at(row, i), expected, machine.tolerance(1e-6)))
                << "width " << width << ", column " << i;
          }
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, a_limit_does_not_hide_what_is_not_a_number) {
  for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7f800001u}) {
    Floats x({2, 38}, 0, 1.0f), out({2, 19});
    x.at(0, 2) = x.at(1, 19 + 18) = std::bit_cast<float>(bits);
    const ActivationRule rule{.gated = true, .limit = 7.0f, .offset = 1.0f};
    machine.run(&Ops::activation, {.rule = rule, .x = x.tensor(), .out = out.tensor()});
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t i = 0; i < 19; ++i) ASSERT_EQ(std::isnan(out.at(row, i)), i == (row == 0 ? 2 : 18)) << i;
    }
  }
}

TEST_P(ElementwiseTest, an_activation_is_the_same_at_every_place_and_in_place) {
  for (const Activation kind : kActivations) {
    const int64_t width = 77;
    Floats x({1, width});
    for (int64_t i = 0; i < width; ++i) x.at(0, i) = -0.7390625f;
    ActivationArgs args;
    args.rule.kind = kind;
    args.x = args.out = x.tensor();
    machine.run(&Ops::activation, args);
    for (int64_t i = 1; i < width; ++i) ASSERT_EQ(x.at(0, i), x.at(0, 0)) << i;
  }
}

TEST_P(ElementwiseTest, what_is_not_a_number_stays_so_whatever_its_bits) {
  for (const uint32_t bits : {0x7fc00000u, 0xffc00000u, 0x7fc00001u, 0x7f800001u, 0x7fffffffu}) {
    for (const Activation kind : kActivations) {
      Floats x({1, 19}, 0, 1.0f);
      x.at(0, 2) = x.at(0, 18) = std::bit_cast<float>(bits);
      ActivationArgs args;
      args.rule.kind = kind;
      args.x = args.out = x.tensor();
      machine.run(&Ops::activation, args);
      for (int64_t i = 0; i < 19; ++i) {
        ASSERT_EQ(std::isnan(x.at(0, i)), i == 2 || i == 18) << "kind " << static_cast<int>(kind) << " at " << i;
      }
    }
  }
}

TEST_P(ElementwiseTest, add_weighs_rows_by_scale_and_gate) {
  for (const int64_t tokens : {1, 2, 7, 33, 257}) {
    for (const int64_t width : {1, 17, 100, 2050}) {
      for (const bool gated : {false, true}) {
        Floats x = Floats::random({tokens, width}, 1, 3);
        Floats gate = Floats::random({tokens, 1}, 2, 4, 3.0f);
        Floats out = Floats::random({tokens, width}, 3, 5);
        const Floats before = out;
        AddArgs args{.x = x.tensor(), .scale = 0.75f, .out = out.tensor()};
        if (gated) args.gate = gate.tensor();
        machine.run(&Ops::add, args);
        EXPECT_TRUE(out.gaps_untouched());
        for (int64_t row = 0; row < tokens; ++row) {
          const double factor = 0.75 / (1.0 + (gated ? std::exp(-double{gate.at(row, 0)}) : 0.0));
          for (int64_t i = 0; i < width; ++i) {
            const double expected = before.at(row, i) + factor * x.at(row, i);
            ASSERT_TRUE(test::close(out.at(row, i), expected, machine.tolerance(5e-7)))
                << "token " << row << ", column " << i;
          }
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, add_is_the_same_on_every_instruction_set_and_for_a_row_alone) {
  const test::OpMachine portable("cpu:portable", 1);
  Floats x = Floats::random({33, 1001}, 1), gate = Floats::random({33, 1}, 2, 0, 40.0f);
  Floats out = Floats::random({33, 1001}, 3), other = out, alone = out;
  machine.run(&Ops::add, {.x = x.tensor(), .gate = gate.tensor(), .out = out.tensor()});
  portable.run(&Ops::add, {.x = x.tensor(), .gate = gate.tensor(), .out = other.tensor()});
  for (int64_t row = 0; row < 33; ++row) {
    machine.run(&Ops::add,
                {.x = x.tensor().rows(row, 1), .gate = gate.tensor().rows(row, 1), .out = alone.tensor().rows(row, 1)});
    EXPECT_TRUE(!machine.is_cpu || out.row_equals(row, other, row));
    EXPECT_TRUE(out.row_equals(row, alone, row));
  }
}

TEST_P(ElementwiseTest, an_added_gate_that_is_not_a_number_poisons_its_row_alone) {
  Floats x({3, 20}, 0, 1.0f), gate({3, 1}, 0, 0.0f), out({3, 20}, 2, 1.0f);
  gate.at(1, 0) = kNan;
  gate.at(2, 0) = -kInf;  // closed
  machine.run(&Ops::add, {.x = x.tensor(), .gate = gate.tensor(), .out = out.tensor()});
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(out.at(0, i), 1.5f);
    EXPECT_TRUE(std::isnan(out.at(1, i)));
    EXPECT_EQ(out.at(2, i), 1.0f);
  }
}

TEST_P(ElementwiseTest, clip_limits_both_sides_and_keeps_what_is_not_a_number) {
  for (const int64_t tokens : {1, 2, 33}) {
    for (const int64_t width : {1, 17, 100, 2050}) {
      Floats x = Floats::random({tokens, width}, 1, 3, 2.0f);
      x.at(0, 0) = kNan;
      x.at(tokens - 1, width - 1) = tokens * width > 1 ? -kInf : kNan;
      const Floats before = x;
      machine.run(&Ops::clip, {.x = x.tensor(), .limit = 1.5f});
      EXPECT_TRUE(x.gaps_untouched());
      for (int64_t row = 0; row < tokens; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          if (std::isnan(before.at(row, i))) {
            ASSERT_TRUE(std::isnan(x.at(row, i)));
          } else {
            ASSERT_EQ(x.at(row, i), std::clamp(before.at(row, i), -1.5f, 1.5f)) << "token " << row << ", column " << i;
          }
        }
      }
    }
  }
}

TEST_P(ElementwiseTest, gather_copies_the_wanted_rows) {
  Floats x = Floats::random({9, 77}, 4, 3);
  const OpVector<int32_t> rows = {8, 0, 3, 3};
  Floats out({4, 77}, 2);
  GatherArgs args{.x = x.tensor(), .rows = rows.data(), .out = out.tensor()};
  machine.run(&Ops::gather, args);
  EXPECT_TRUE(out.gaps_untouched());
  for (int64_t i = 0; i < 4; ++i) EXPECT_TRUE(out.row_equals(i, x, rows[static_cast<size_t>(i)]));
}

TEST_P(ElementwiseTest, logits_are_scaled_and_capped) {
  for (const int64_t width : {1, 9, 2047, 2049, 30001}) {
    for (const float softcap : {0.0f, 30.0f}) {
      Floats x = Floats::random({2, width}, 5, 6, 60.0f);
      const Floats before = x;
      LogitScaleArgs args{.x = x.tensor(), .scale = 0.7f, .softcap = softcap};
      machine.run(&Ops::logit_scale, args);
      EXPECT_TRUE(x.gaps_untouched());
      for (int64_t row = 0; row < 2; ++row) {
        for (int64_t i = 0; i < width; ++i) {
          const double scaled = double{before.at(row, i)} * 0.7f;
          const double expected = softcap > 0.0f ? softcap * std::tanh(scaled / softcap) : scaled;
          ASSERT_TRUE(test::close(x.at(row, i), expected, machine.tolerance(5e-7))) << "column " << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace quire
