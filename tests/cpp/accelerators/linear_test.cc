// linear, grouped_linear and pack_linear of a GPU against their definitions in double (linear_numbers.h).
#include <algorithm>
#include <numeric>
#include <tuple>

#include "accelerators/accelerator.h"
#include "accelerators/linear_numbers.h"
#include "quire/error.h"

namespace quire {
namespace {

using test::accelerator;
using test::dot;
using test::kAllTypes;
using test::Numbers;
using test::pack;
using test::random_bias;
using test::random_weight;
using test::tolerance_of;

struct Case {
  DType x, weight, out;
  int64_t tokens, n, k;
  bool bias = false;
  bool residual = false;
  int64_t x_gap = 0, out_gap = 0;
};

std::string describe(const Case& c) {
  std::ostringstream text;
  text << "x " << dtype_name(c.x) << ", weight " << dtype_name(c.weight) << ", out " << dtype_name(c.out) << ", T "
       << c.tokens << ", N " << c.n << ", K " << c.k << ", bias " << c.bias << ", residual " << c.residual << ", gaps "
       << c.x_gap << " " << c.out_gap;
  return text.str();
}

void check_linear(const Case& c, bool deterministic = false) {
  SCOPED_TRACE(describe(c));
  Backend& backend = *accelerator(deterministic);
  const auto stream = backend.create_stream();
  Numbers weight = random_weight(c.weight, c.n, c.k, 1);
  const PackedLinear packed = pack(weight, *stream);
  Numbers x = Numbers::random(c.x, c.tokens, c.k, 2, c.x_gap);
  Numbers bias = random_bias(c.out, c.n, 3);
  Numbers residual = Numbers::random(DType::kFloat32, c.tokens, c.n, 4, c.out_gap);
  Numbers out = c.residual ? Numbers::random(DType::kFloat32, c.tokens, c.n, 4, c.out_gap)
                           : Numbers(c.out, c.tokens, c.n, c.out_gap);
  LinearArgs args;
  args.x = x.tensor();
  args.weight = &packed;
  if (c.bias) args.bias = bias.vector();
  args.out = out.tensor();
  if (c.residual) args.residual = args.out;
  backend.ops().linear(args, *stream);
  stream->synchronize();
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int64_t n = 0; n < c.n; ++n) {
      const double expected =
          dot(x, t, weight, n) + (c.bias ? bias.get(0, n) : 0.0) + (c.residual ? residual.get(t, n) : 0.0);
      ASSERT_TRUE(test::near(out.get(t, n), expected, tolerance_of(c.residual ? DType::kFloat32 : c.out)))
          << "row " << t << ", column " << n;
    }
  }
  EXPECT_TRUE(out.gaps_untouched());
}

TEST(Linear, is_the_definition_for_all_types_and_sizes) {
  QUIRE_NEED_ACCELERATOR();
  const std::pair<int64_t, int64_t> shapes[] = {{1, 8}, {7, 64}, {33, 72}, {130, 520}, {257, 1000}, {300, 2048}};
  for (const DType dtype : kAllTypes) {
    for (const auto& [n, k] : shapes) {
      for (const int64_t tokens : {1, 2, 3, 5, 8, 9, 16, 17, 33, 70}) {
        const bool odd = tokens % 2 != 0;
        check_linear({dtype, dtype, odd ? DType::kFloat32 : dtype, tokens, n, k, n % 2 != 0});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Linear, takes_more_rows_and_longer_sums) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    check_linear({dtype, dtype, dtype, 257, 192, 320, true});
    check_linear({dtype, dtype, DType::kFloat32, 1, 150, 14336});
    check_linear({dtype, dtype, DType::kFloat32, 5, 40, 14336, false, true});
    check_linear({dtype, dtype, DType::kFloat32, 12, 40, 14336, true});
    check_linear({dtype, dtype, dtype, 1, 5000, 128});
  }
  // Tiles of all heights, cut along K and not, with few columns and more than there are multiprocessors.
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t tokens : {31, 64, 100, 128, 200, 257}) {
      check_linear({dtype, dtype, dtype, tokens, 264, 2048, true});
      check_linear({dtype, dtype, DType::kFloat32, tokens, 330, 1000, true, true});
      if (HasFatalFailure()) return;
    }
    check_linear({dtype, dtype, dtype, 300, 17100, 72, true});
    check_linear({dtype, dtype, DType::kFloat32, 513, 8500, 136, false, true});
  }
}

TEST(Linear, takes_few_rows_too_long_for_shared_memory) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    check_linear({dtype, dtype, DType::kFloat32, 1, 40, 16'400, true});
    check_linear({dtype, dtype, DType::kFloat32, 2, 72, 14'336});
    check_linear({dtype, dtype, DType::kFloat32, 3, 150, 14'336, true, true});
    check_linear({dtype, dtype, dtype, 8, 300, 4104, true});
  }
}

// A backend may have another kernel for it than for a small one.
TEST(Linear, takes_few_rows_of_a_large_matrix) {
  QUIRE_NEED_ACCELERATOR();
  check_linear({DType::kBFloat16, DType::kBFloat16, DType::kBFloat16, 2, 5320, 4104, true});
  check_linear({DType::kFloat16, DType::kFloat16, DType::kFloat32, 5, 5320, 4104, false, true});
}

// A backend may cut it into as many equal parts as the device has processors, whatever the width is then.
TEST(Linear, takes_few_rows_of_matrices_of_any_width) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    // For a device of few processors, as the emulated one.
    for (const int64_t n : {96, 200, 330, 520, 776, 1000}) {
      for (const int64_t tokens : {9, 16, 33, 64}) {
        check_linear({dtype, dtype, dtype, tokens, n, 328, n % 16 != 0});
        check_linear({dtype, dtype, DType::kFloat32, tokens, n, 136, false, true, 8, 4});
        if (HasFatalFailure()) return;
      }
    }
    check_linear({dtype, dtype, DType::kFloat32, 12, 200, 6000, true, true});
    check_linear({dtype, dtype, dtype, 50, 760, 6000});
    // And of many.
    for (const int64_t n : {2112, 4200, 6210, 8300, 12'400, 20'000, 24'500, 28'672, 33'000}) {
      check_linear({dtype, dtype, n % 16 == 0 ? dtype : DType::kFloat32, 17, n, 72, n % 16 != 0});
    }
  }
}

TEST(Linear, gives_the_same_again_and_again) {
  QUIRE_NEED_ACCELERATOR();
  constexpr int64_t kWide = 6144, kNarrow = 1024;
  constexpr int kTimes = 200;
  Backend& backend = *accelerator();
  const auto stream = backend.create_stream();
  Numbers first = random_weight(DType::kBFloat16, kWide, kNarrow, 1);
  Numbers second = random_weight(DType::kBFloat16, kNarrow, kWide, 2);
  const PackedLinear packed_first = pack(first, *stream);
  const PackedLinear packed_second = pack(second, *stream);
  for (const int64_t tokens : {1, 8, 16, 30, 64, 128, 256}) {
    Numbers x = Numbers::random(DType::kBFloat16, tokens, kNarrow, 3);
    Numbers middle(DType::kBFloat16, tokens, kWide);
    Numbers out(DType::kFloat32, tokens, kNarrow), again(DType::kFloat32, tokens, kNarrow);
    const auto enqueue = [&](Numbers& to) {
      backend.ops().linear(
          {.x = x.tensor(), .weight = &packed_first, .bias = {}, .residual = {}, .out = middle.tensor()}, *stream);
      backend.ops().linear(
          {.x = middle.tensor(), .weight = &packed_second, .bias = {}, .residual = {}, .out = to.tensor()}, *stream);
    };
    enqueue(out);
    backend.begin_recording(*stream);
    for (int i = 0; i < kTimes; ++i) enqueue(again);
    backend.end_recording(*stream)->launch(*stream);
    stream->synchronize();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < kNarrow; ++n) ASSERT_EQ(out.get(t, n), again.get(t, n)) << "T " << tokens;
    }
  }
}

TEST(Linear, adds_bias_and_residual_in_place) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    for (const int64_t tokens : {1, 4, 11, 40, 129}) {
      check_linear({dtype, dtype, DType::kFloat32, tokens, 96, 256, false, true});
      check_linear({dtype, dtype, DType::kFloat32, tokens, 100, 264, true, true});
    }
  }
}

TEST(Linear, takes_strided_rows_and_leaves_the_gaps_alone) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    for (const int64_t tokens : {1, 3, 13, 50}) {
      check_linear({dtype, dtype, dtype, tokens, 65, 128, true, false, 8, 3});
      check_linear({dtype, dtype, dtype, tokens, 64, 128, false, false, 1, 8});
      check_linear({dtype, dtype, DType::kFloat32, tokens, 64, 128, false, true, 16, 4});
    }
  }
}

TEST(Linear, takes_any_mixture_of_types_and_odd_columns) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType x : kAllTypes) {
    for (const DType weight : kAllTypes) {
      for (const DType out : kAllTypes) {
        check_linear({x, weight, out, 3, 37, 129, true});
        check_linear({x, weight, out, 21, 37, 128});
      }
    }
  }
}

TEST(Linear, keeps_a_residual_that_is_not_the_output) {
  QUIRE_NEED_ACCELERATOR();
  Backend& backend = *accelerator();
  const auto stream = backend.create_stream();
  Numbers weight = random_weight(DType::kBFloat16, 48, 64, 1);
  const PackedLinear packed = pack(weight, *stream);
  for (const int64_t tokens : {2, 30}) {
    Numbers x = Numbers::random(DType::kBFloat16, tokens, 64, 2);
    Numbers residual = Numbers::random(DType::kFloat32, tokens, 48, 3, 5);
    Numbers out(DType::kFloat32, tokens, 48);
    backend.ops().linear(
        {.x = x.tensor(), .weight = &packed, .bias = {}, .residual = residual.tensor(), .out = out.tensor()}, *stream);
    stream->synchronize();
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < 48; ++n) {
        ASSERT_TRUE(test::near(out.get(t, n), dot(x, t, weight, n) + residual.get(t, n), 1e-4)) << t << " " << n;
      }
    }
  }
}

/// Row 0's bits alone and among others.
void expect_rows_alone(DType dtype, int64_t n, int64_t k, bool deterministic) {
  SCOPED_TRACE(std::string(dtype_name(dtype)) + " " + std::to_string(n) + " x " + std::to_string(k));
  Backend& backend = *accelerator(deterministic);
  const auto stream = backend.create_stream();
  Numbers weight = random_weight(dtype, n, k, 1);
  const PackedLinear packed = pack(weight, *stream);
  constexpr int64_t kMost = 200;
  Numbers x = Numbers::random(dtype, kMost, k, 2);
  const auto run = [&](int64_t first, int64_t count) {
    Numbers out(dtype, count, n);
    backend.ops().linear(
        {.x = x.tensor().rows(first, count), .weight = &packed, .bias = {}, .residual = {}, .out = out.tensor()},
        *stream);
    stream->synchronize();
    return out;
  };
  const Numbers all = run(0, kMost);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {7, 2}, {64, 9}, {130, 70}, {199, 1}}) {
    const Numbers some = run(first, count);
    for (int64_t t = 0; t < count; ++t) EXPECT_TRUE(some.row_bits_equal(t, all, first + t)) << first << " + " << t;
  }
}

TEST(Linear, row_depends_on_the_row_alone_in_float32) {
  QUIRE_NEED_ACCELERATOR();
  expect_rows_alone(DType::kFloat32, 100, 700, false);
  expect_rows_alone(DType::kFloat32, 65, 2056, false);
}

TEST(Linear, row_depends_on_the_row_alone_if_deterministic) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    expect_rows_alone(dtype, 192, 512, true);
    expect_rows_alone(dtype, 260, 1000, true);
    check_linear({dtype, dtype, dtype, 3, 130, 520, true}, true);
    check_linear({dtype, dtype, DType::kFloat32, 90, 130, 520, false, true}, true);
  }
}

TEST(Linear, can_be_recorded) {
  QUIRE_NEED_ACCELERATOR();
  Backend& backend = *accelerator();
  const auto stream = backend.create_stream();
  Numbers first = random_weight(DType::kBFloat16, 256, 128, 1);
  Numbers second = random_weight(DType::kBFloat16, 128, 256, 2);
  const PackedLinear packed_first = pack(first, *stream);
  const PackedLinear packed_second = pack(second, *stream);
  for (const int64_t tokens : {1, 40}) {
    Numbers x = Numbers::random(DType::kBFloat16, tokens, 128, 3);
    Numbers middle(DType::kBFloat16, tokens, 256);
    Numbers out(DType::kFloat32, tokens, 128);
    backend.begin_recording(*stream);
    backend.ops().linear({.x = x.tensor(), .weight = &packed_first, .bias = {}, .residual = {}, .out = middle.tensor()},
                         *stream);
    backend.ops().linear(
        {.x = middle.tensor(), .weight = &packed_second, .bias = {}, .residual = {}, .out = out.tensor()}, *stream);
    const auto graph = backend.end_recording(*stream);
    for (uint32_t round = 0; round < 3; ++round) {
      const Numbers fresh = Numbers::random(DType::kBFloat16, tokens, 128, 10 + round);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t k = 0; k < 128; ++k) x.set(t, k, fresh.get(t, k));
      }
      graph->launch(*stream);
      stream->synchronize();
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t n = 0; n < 256; ++n) {
          ASSERT_TRUE(test::near(middle.get(t, n), dot(x, t, first, n), test::rounding_of(DType::kBFloat16)));
        }
        for (int64_t n = 0; n < 128; ++n) ASSERT_TRUE(test::near(out.get(t, n), dot(middle, t, second, n), 1e-4));
      }
    }
  }
}

void check_grouped(DType dtype, DType out_dtype, int64_t tokens, int64_t groups, int64_t n, int64_t k) {
  SCOPED_TRACE(std::string(dtype_name(dtype)) + ", T " + std::to_string(tokens) + ", G " + std::to_string(groups) +
               ", N " + std::to_string(n) + ", K " + std::to_string(k));
  Backend& backend = *accelerator();
  const auto stream = backend.create_stream();
  Numbers weight = random_weight(dtype, groups * n, k, 1);
  const PackedLinear packed = pack(weight, *stream, groups);
  // Heads' rows lie further apart than they are long, and so do tokens.
  const int64_t x_width = k + 16;
  const int64_t out_width = n + 5;
  Numbers x = Numbers::random(dtype, tokens, groups * x_width, 2, 8);
  Numbers out(out_dtype, tokens, groups * out_width, 3);
  GroupedLinearArgs args;
  args.x = x.tensor().heads(groups, x_width).columns(0, k);
  args.weight = &packed;
  args.out = out.tensor().heads(groups, out_width).columns(0, n);
  backend.ops().grouped_linear(args, *stream);
  stream->synchronize();
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t g = 0; g < groups; ++g) {
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(test::near(out.get(t, g * out_width + i), dot(x, t, weight, g * n + i, g * x_width),
                               tolerance_of(out_dtype)))
            << "row " << t << ", group " << g << ", column " << i;
      }
      for (int64_t i = n; i < out_width; ++i) ASSERT_TRUE(std::isnan(out.get(t, g * out_width + i)));
    }
  }
  EXPECT_TRUE(out.gaps_untouched());
}

TEST(GroupedLinear, is_the_definition) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    for (const int64_t tokens : {1, 2, 9, 64, 131}) {
      check_grouped(dtype, dtype, tokens, 3, 64, 128);
      check_grouped(dtype, DType::kFloat32, tokens, 2, 70, 40);
      check_grouped(dtype, dtype, tokens, 1, 33, 37);
    }
    check_grouped(dtype, dtype, 5, 16, 512, 128);
    check_grouped(dtype, dtype, 70, 4, 128, 512);
  }
}

/// The packed matrix, read back.
template <typename T>
std::vector<T> read_back(const PackedLinear& packed, Stream& stream) {
  std::vector<T> values(static_cast<size_t>(packed.groups * packed.n * packed.k));
  accelerator()->copy_to_host(values.data(), packed.data.data(), values.size() * sizeof(T), stream);
  return values;
}

/// Packs parts of `memory` [groups][part]; element (n, k) of a part is at offset + n * n_stride + k * k_stride.
struct PartView {
  int64_t n, offset, n_stride, k_stride;
};

void check_pack(const std::vector<PartView>& views, int64_t k, bool transposed, int64_t groups, DType to) {
  const auto stream = accelerator()->create_stream();
  std::vector<float> memory(200'000);
  std::mt19937 generator(5);
  std::normal_distribution<float> normal;
  for (float& value : memory) value = normal(generator);
  LinearSource source;
  source.groups = groups;
  source.transposed = transposed;
  source.dtype = to;
  for (const PartView& view : views) {
    Tensor part(memory.data() + view.offset, DType::kFloat32, {view.n, k});
    part.strides = {view.n_stride, view.k_stride};
    if (transposed) {
      std::swap(part.shape[0], part.shape[1]);
      std::swap(part.strides[0], part.strides[1]);
    }
    source.parts.push_back(part);
  }
  const PackedLinear packed = accelerator()->pack_linear(source, *stream);
  EXPECT_EQ(packed.k, k);
  EXPECT_EQ(packed.groups, groups);
  EXPECT_EQ(packed.dtype, to);
  std::vector<float> got;
  if (to == DType::kFloat32) {
    got = read_back<float>(packed, *stream);
  } else {
    for (const BFloat16 value : read_back<BFloat16>(packed, *stream)) got.push_back(to_float(value));
  }
  size_t at = 0;
  for (const PartView& view : views) {
    for (int64_t n = 0; n < view.n; ++n) {
      for (int64_t i = 0; i < k; ++i, ++at) {
        const float value = memory[static_cast<size_t>(view.offset + n * view.n_stride + i * view.k_stride)];
        ASSERT_EQ(got[at], to == DType::kFloat32 ? value : to_float(to_bfloat16(value))) << "row " << n << " of " << i;
      }
    }
  }
  EXPECT_EQ(at, got.size());
}

TEST(PackLinear, lays_any_view_out_row_by_row) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType to : {DType::kFloat32, DType::kBFloat16}) {
    check_pack({{5, 0, 37, 1}, {66, 3000, 37, 1}}, 37, false, 1, to);       // contiguous rows
    check_pack({{70, 10, 50, 1}, {33, 7000, 41, 1}}, 41, false, 1, to);     // rows with gaps
    check_pack({{70, 3, 1, 70}, {40, 9001, 1, 64}}, 90, true, 1, to);       // transposed
    check_pack({{3000, 5, 2, 1}}, 65, false, 1, to);                        // overlapping rows
    check_pack({{64, 199, 0, 1}, {10, 50'000, -70, 1}}, 60, false, 1, to);  // the same row, and backwards
    check_pack({{8, 0, 20, 1}, {4, 500, 33, 1}, {2, 900, 20, 1}, {10, 90, 20, 1}}, 20, false, 2, to);  // groups
    check_pack({{31, 77, 1, 31}, {31, 4000, 1, 31}, {31, 9000, 1, 40}}, 45, true, 3, to);
  }
}

TEST(PackLinear, converts_between_16_bit_types) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  Numbers from = Numbers::random(DType::kFloat16, 33, 70, 1);
  LinearSource source;
  source.parts = {from.tensor()};
  source.dtype = DType::kBFloat16;
  const PackedLinear packed = accelerator()->pack_linear(source, *stream);
  const std::vector<BFloat16> got = read_back<BFloat16>(packed, *stream);
  for (int64_t n = 0; n < 33; ++n) {
    for (int64_t k = 0; k < 70; ++k) {
      EXPECT_EQ(to_float(got[static_cast<size_t>(n * 70 + k)]), to_float(to_bfloat16(from.get(n, k))));
    }
  }
}

TEST(PackLinear, brings_large_views_over_in_pieces) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  // 130 MB: three pieces of rows, and of columns when transposed.
  constexpr int64_t kRows = 2100, kColumns = 15'500;
  std::vector<float> memory(static_cast<size_t>(kRows * kColumns));
  std::iota(memory.begin(), memory.end(), 0.0f);
  for (const bool transposed : {false, true}) {
    LinearSource source;
    source.transposed = transposed;
    source.dtype = DType::kFloat32;
    source.parts = {Tensor(memory.data(), DType::kFloat32, {kRows, kColumns}).columns(3, kColumns - 5)};
    const PackedLinear packed = accelerator()->pack_linear(source, *stream);
    const std::vector<float> got = read_back<float>(packed, *stream);
    int64_t wrong = 0;
    for (int64_t n = 0; n < packed.n; ++n) {
      for (int64_t k = 0; k < packed.k; ++k) {
        const int64_t row = transposed ? k : n;
        const int64_t column = 3 + (transposed ? n : k);
        wrong += got[static_cast<size_t>(n * packed.k + k)] != memory[static_cast<size_t>(row * kColumns + column)];
      }
    }
    EXPECT_EQ(wrong, 0);
  }
}

TEST(PackLinear, refuses_types_without_a_kernel) {
  QUIRE_NEED_ACCELERATOR();
  const auto stream = accelerator()->create_stream();
  std::vector<int32_t> memory(64);
  LinearSource source;
  source.parts = {Tensor(memory.data(), DType::kInt32, {8, 8})};
  source.dtype = DType::kFloat32;
  EXPECT_THROW(accelerator()->pack_linear(source, *stream), Error);
}

}  // namespace
}  // namespace quire
