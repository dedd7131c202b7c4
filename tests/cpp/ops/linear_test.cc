#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "ops/op_machine.h"
#include "quire/error.h"

namespace quire {
namespace {

using test::OpMachine;

/// A matrix whose rows may be further apart than they are long.
class Matrix {
 public:
  Matrix(DType dtype, int64_t rows, int64_t columns, int64_t stride = 0)
      : dtype_(dtype), rows_(rows), columns_(columns), stride_(stride > 0 ? stride : columns) {
    bytes_.resize(static_cast<size_t>(rows * stride_ * dtype_bytes(dtype)), std::byte{0x7f});
  }

  static Matrix random(DType dtype, int64_t rows, int64_t columns, uint32_t seed, int64_t stride = 0) {
    Matrix matrix(dtype, rows, columns, stride);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < columns; ++column) matrix.set(row, column, normal(generator));
    }
    return matrix;
  }

  Tensor tensor() {
    Tensor view(bytes_.data(), dtype_, {rows_, columns_});
    view.strides[0] = stride_;
    return view;
  }

  float get(int64_t row, int64_t column) const {
    const std::byte* const at = bytes_.data() + (row * stride_ + column) * dtype_bytes(dtype_);
    if (dtype_ == DType::kFloat32) return read<float>(at);
    return dtype_ == DType::kBFloat16 ? to_float(read<BFloat16>(at)) : to_float(read<Float16>(at));
  }

  void set(int64_t row, int64_t column, float value) {
    std::byte* const at = bytes_.data() + (row * stride_ + column) * dtype_bytes(dtype_);
    if (dtype_ == DType::kFloat32) return write(at, value);
    return dtype_ == DType::kBFloat16 ? write(at, to_bfloat16(value)) : write(at, to_float16(value));
  }

 private:
  template <typename T>
  static T read(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  template <typename T>
  static void write(std::byte* to, T value) {
    std::memcpy(to, &value, sizeof(value));
  }

  DType dtype_;
  int64_t rows_;
  int64_t columns_;
  int64_t stride_;
  test::OpVector<std::byte> bytes_;
};

/// One product and what it is added to.
struct Problem {
  Problem(int64_t tokens, int64_t n, int64_t k, DType dtype)
      : x(Matrix::random(DType::kFloat32, tokens, k, 1, k + 3)),
        weight(Matrix::random(dtype, n, k, 2)),
        bias(Matrix::random(DType::kFloat32, 1, n, 3)),
        residual(Matrix::random(DType::kFloat32, tokens, n, 4, n + 5)) {}

  LinearSource source() {
    LinearSource source;
    source.parts = {weight.tensor()};
    source.dtype = weight.tensor().dtype;
    return source;
  }

  Matrix x;
  Matrix weight;
  Matrix bias;
  Matrix residual;
  bool with_bias = true;
  bool with_residual = true;
};

/// The op, run on rows [first, first + count) of the problem.
Matrix run(Problem& problem, const PackedLinear& packed, const OpMachine& machine, int64_t first, int64_t count) {
  const int64_t n = packed.n;
  Matrix out(DType::kFloat32, count, n, n + 1);
  LinearArgs args;
  args.x = problem.x.tensor().rows(first, count);
  args.weight = &packed;
  if (problem.with_bias) {
    args.bias = problem.bias.tensor();
    args.bias.rank = 1;
    args.bias.shape = {n};
    args.bias.strides = {1};
  }
  if (problem.with_residual) args.residual = problem.residual.tensor().rows(first, count);
  args.out = out.tensor();
  machine.run(&Ops::linear, args);
  return out;
}

PackedLinear pack(const LinearSource& source, const OpMachine& machine) {
  return machine.backend->pack_linear(source, *machine.stream);
}

Matrix run(Problem& problem, const OpMachine& machine) {
  const PackedLinear packed = pack(problem.source(), machine);
  return run(problem, packed, machine, 0, problem.x.tensor().shape[0]);
}

/// The order of operations that ops/linear.h promises, written down plainly.
float expected(const Problem& problem, const Matrix& weight, int64_t row, int64_t column, int64_t k) {
  float sum = 0.0f;
  for (int64_t i = 0; i < k; ++i) sum = std::fma(problem.x.get(row, i), weight.get(column, i), sum);
  if (problem.with_bias) sum += problem.bias.get(0, column);
  if (problem.with_residual) sum += problem.residual.get(row, column);
  return sum;
}

/// Exact equality, that of the sign of zero included.
void expect_same_bits(float got, float wanted, int64_t row, int64_t column) {
  ASSERT_EQ(std::bit_cast<uint32_t>(got), std::bit_cast<uint32_t>(wanted))
      << "row " << row << ", column " << column << ": got " << got << ", expected " << wanted;
}

/// To the last bit on the CPU, which promises the order of the sum; near it elsewhere.
void expect_sum(const OpMachine& machine, float got, float wanted, int64_t row, int64_t column) {
  if (machine.is_cpu) return expect_same_bits(got, wanted, row, column);
  ASSERT_TRUE(test::close(got, wanted, machine.tolerance(0.0))) << "row " << row << ", column " << column;
}

void expect_canonical(const OpMachine& machine, const Matrix& out, const Problem& problem, const Matrix& weight,
                      int64_t tokens, int64_t n, int64_t k) {
  for (int64_t row = 0; row < tokens; ++row) {
    for (int64_t column = 0; column < n; ++column) {
      expect_sum(machine, out.get(row, column), expected(problem, weight, row, column, k), row, column);
    }
  }
}

struct Case {
  std::string device;
  DType dtype;
};

class LinearTest : public testing::TestWithParam<Case> {
 protected:
  OpMachine machine_{GetParam().device, 2};
};

TEST_P(LinearTest, every_row_count_gives_the_sequential_sum) {
  constexpr int64_t kN = 83;
  constexpr int64_t kK = 45;
  for (int64_t tokens = 1; tokens <= 31; ++tokens) {
    Problem problem(tokens, kN, kK, GetParam().dtype);
    expect_canonical(machine_, run(problem, machine_), problem, problem.weight, tokens, kN, kK);
  }
}

TEST_P(LinearTest, every_width_gives_the_sequential_sum) {
  for (const int64_t n : {1, 15, 16, 17, 31, 32, 33, 64, 100, 577}) {
    Problem problem(7, n, 19, GetParam().dtype);
    expect_canonical(machine_, run(problem, machine_), problem, problem.weight, 7, n, 19);
  }
}

TEST_P(LinearTest, every_depth_gives_the_sequential_sum) {
  for (const int64_t k : {1, 2, 31, 32, 33, 64, 513}) {
    Problem problem(17, 40, k, GetParam().dtype);
    expect_canonical(machine_, run(problem, machine_), problem, problem.weight, 17, 40, k);
  }
}

TEST_P(LinearTest, sums_cut_into_parts_give_the_sequential_sum) {
  constexpr int64_t kK = 4100;
  Problem problem(18, 34, kK, GetParam().dtype);
  expect_canonical(machine_, run(problem, machine_), problem, problem.weight, 18, 34, kK);
}

TEST_P(LinearTest, several_blocks_of_rows_give_the_sequential_sum) {
  Problem problem(251, 37, 16, GetParam().dtype);
  expect_canonical(machine_, run(problem, machine_), problem, problem.weight, 251, 37, 16);
}

TEST_P(LinearTest, rows_whole_pages_apart_give_the_sequential_sum) {
  constexpr int64_t kTokens = 130;
  constexpr int64_t kN = 270;
  constexpr int64_t kK = 61;
  Problem problem(kTokens, kN, kK, GetParam().dtype);
  problem.x = Matrix::random(DType::kFloat32, kTokens, kK, 1, 1024);
  expect_canonical(machine_, run(problem, machine_), problem, problem.weight, kTokens, kN, kK);
}

TEST_P(LinearTest, bias_and_residual_may_be_absent) {
  for (const bool with_bias : {false, true}) {
    for (const bool with_residual : {false, true}) {
      Problem problem(5, 50, 33, GetParam().dtype);
      problem.with_bias = with_bias;
      problem.with_residual = with_residual;
      expect_canonical(machine_, run(problem, machine_), problem, problem.weight, 5, 50, 33);
    }
  }
}

TEST_P(LinearTest, residual_may_be_the_output) {
  constexpr int64_t kTokens = 20;
  constexpr int64_t kN = 45;
  constexpr int64_t kK = 2100;
  Problem problem(kTokens, kN, kK, GetParam().dtype);
  const Matrix apart = run(problem, machine_);

  const PackedLinear packed = pack(problem.source(), machine_);
  LinearArgs args;
  args.x = problem.x.tensor();
  args.weight = &packed;
  args.bias = problem.bias.tensor();
  args.residual = problem.residual.tensor();
  args.out = problem.residual.tensor();
  machine_.run(&Ops::linear, args);
  for (int64_t row = 0; row < kTokens; ++row) {
    for (int64_t column = 0; column < kN; ++column) {
      expect_same_bits(problem.residual.get(row, column), apart.get(row, column), row, column);
    }
  }
}

TEST_P(LinearTest, a_row_does_not_depend_on_its_neighbours_nor_on_threads) {
  constexpr int64_t kTokens = 130;
  constexpr int64_t kN = 200;
  Problem problem(kTokens, kN, 64, GetParam().dtype);
  const Matrix together = run(problem, machine_);
  for (const int threads : {1, 3}) {
    const OpMachine other(GetParam().device, threads);
    const PackedLinear packed = pack(problem.source(), other);
    for (const int64_t chunk : {1, 7, 40}) {
      for (int64_t first = 0; first < kTokens; first += chunk) {
        const int64_t count = std::min(chunk, kTokens - first);
        const Matrix part = run(problem, packed, other, first, count);
        for (int64_t row = 0; row < count; ++row) {
          for (int64_t column = 0; column < kN; ++column) {
            expect_same_bits(part.get(row, column), together.get(first + row, column), first + row, column);
          }
        }
      }
    }
  }
}

TEST_P(LinearTest, nothing_beside_the_output_is_written) {
  constexpr int64_t kN = 33;
  Problem problem(15, kN, 8, GetParam().dtype);
  const Matrix out = run(problem, machine_);
  const Matrix untouched(DType::kFloat32, 15, kN, kN + 1);
  for (int64_t row = 0; row + 1 < 15; ++row) {
    expect_same_bits(out.get(row, kN), untouched.get(row, kN), row, kN);  // between one row and the next
  }
}

TEST_P(LinearTest, a_row_that_is_not_finite_leaves_the_others_alone) {
  Problem problem(16, 70, 24, GetParam().dtype);
  const Matrix clean = run(problem, machine_);
  problem.x.set(5, 3, std::nanf(""));
  const Matrix out = run(problem, machine_);
  for (int64_t column = 0; column < 70; ++column) {
    EXPECT_TRUE(std::isnan(out.get(5, column)));
    for (const int64_t row : {0, 4, 6, 15}) expect_same_bits(out.get(row, column), clean.get(row, column), row, column);
  }
}

TEST_P(LinearTest, no_rows_are_no_work) {
  Problem problem(1, 40, 8, GetParam().dtype);
  const PackedLinear packed = pack(problem.source(), machine_);
  const Matrix out = run(problem, packed, machine_, 0, 0);
  EXPECT_EQ(packed.n, 40);
}

TEST_P(LinearTest, parts_are_stacked_and_may_be_strided) {
  Problem problem(3, 91, 20, GetParam().dtype);
  const Matrix whole = run(problem, machine_);
  Matrix spread(GetParam().dtype, 91, 20, 29);
  for (int64_t row = 0; row < 91; ++row) {
    for (int64_t column = 0; column < 20; ++column) spread.set(row, column, problem.weight.get(row, column));
  }
  LinearSource source;
  source.dtype = GetParam().dtype;
  source.parts = {spread.tensor().rows(0, 40), spread.tensor().rows(40, 1), spread.tensor().rows(41, 50)};
  const PackedLinear packed = pack(source, machine_);
  ASSERT_EQ(packed.n, 91);
  const Matrix out = run(problem, packed, machine_, 0, 3);
  expect_canonical(machine_, out, problem, problem.weight, 3, 91, 20);
  expect_canonical(machine_, whole, problem, problem.weight, 3, 91, 20);
}

TEST_P(LinearTest, a_transposed_source_gives_the_same) {
  constexpr int64_t kN = 70;
  constexpr int64_t kK = 41;
  Problem problem(4, kN, kK, GetParam().dtype);
  Matrix turned(GetParam().dtype, kK, kN, kN + 2);
  for (int64_t row = 0; row < kN; ++row) {
    for (int64_t column = 0; column < kK; ++column) turned.set(column, row, problem.weight.get(row, column));
  }
  LinearSource source;
  source.dtype = GetParam().dtype;
  source.transposed = true;
  source.parts = {turned.tensor().columns(0, 30), turned.tensor().columns(30, 40)};
  const PackedLinear packed = pack(source, machine_);
  ASSERT_EQ(packed.n, kN);
  ASSERT_EQ(packed.k, kK);
  expect_canonical(machine_, run(problem, packed, machine_, 0, 4), problem, problem.weight, 4, kN, kK);
}

TEST_P(LinearTest, a_source_of_another_type_is_rounded_to_the_one_wanted) {
  constexpr int64_t kN = 35;
  constexpr int64_t kK = 21;
  for (const DType stored : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    Problem problem(2, kN, kK, stored);
    Matrix rounded(GetParam().dtype, kN, kK);
    for (int64_t row = 0; row < kN; ++row) {
      for (int64_t column = 0; column < kK; ++column) rounded.set(row, column, problem.weight.get(row, column));
    }
    LinearSource source = problem.source();
    source.dtype = GetParam().dtype;
    const PackedLinear packed = pack(source, machine_);
    expect_canonical(machine_, run(problem, packed, machine_, 0, 2), problem, rounded, 2, kN, kK);
  }
}

TEST_P(LinearTest, weights_keep_the_size_of_their_stored_type) {
  Problem problem(1, 64, 100, GetParam().dtype);
  const PackedLinear packed = pack(problem.source(), machine_);
  EXPECT_EQ(packed.dtype, GetParam().dtype);
  // A GPU may keep room for rows and columns that its tiles fill up.
  const auto bytes = static_cast<size_t>(64 * 100 * dtype_bytes(GetParam().dtype));
  EXPECT_GE(packed.data.bytes(), bytes);
  EXPECT_LE(packed.data.bytes(), machine_.is_cpu ? bytes : 2 * bytes);
}

TEST_P(LinearTest, parts_may_have_any_strides) {
  constexpr int64_t kN = 70;
  constexpr int64_t kK = 41;
  Problem problem(4, kN, kK, GetParam().dtype);
  // Gate and up rows that alternate, in both layouts, and a part turned around beside one that is not.
  Matrix mixed(GetParam().dtype, kN, kK, kK + 4), turned(GetParam().dtype, kK, kN, kN + 2);
  const auto mixed_row = [](int64_t n) { return n < kN / 2 ? 2 * n : 2 * (n - kN / 2) + 1; };
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      mixed.set(mixed_row(n), k, problem.weight.get(n, k));
      turned.set(k, mixed_row(n), problem.weight.get(n, k));
    }
  }
  const auto every_second = [](Tensor whole, int axis, int64_t first) {
    Tensor half = axis == 0 ? whole.rows(first, whole.shape[0]) : whole.columns(first, whole.shape[1]);
    half.shape[static_cast<size_t>(axis)] /= 2;
    half.strides[static_cast<size_t>(axis)] *= 2;
    return half;
  };
  const auto transpose = [](Tensor matrix) {
    std::swap(matrix.shape[0], matrix.shape[1]);
    std::swap(matrix.strides[0], matrix.strides[1]);
    return matrix;
  };
  const Tensor rows[] = {every_second(mixed.tensor(), 0, 0), every_second(mixed.tensor(), 0, 1)};
  const Tensor columns[] = {every_second(turned.tensor(), 1, 0), every_second(turned.tensor(), 1, 1)};
  for (const LinearSource& source :
       {LinearSource{.parts = {rows[0], rows[1]}}, LinearSource{.parts = {columns[0], columns[1]}, .transposed = true},
        LinearSource{.parts = {rows[0], transpose(columns[1])}}}) {
    LinearSource typed = source;
    typed.dtype = GetParam().dtype;
    const PackedLinear packed = pack(typed, machine_);
    ASSERT_EQ(packed.n, kN);
    expect_canonical(machine_, run(problem, packed, machine_, 0, 4), problem, problem.weight, 4, kN, kK);
  }
}

/// x[T, G, K] and out[T, G, N] inside larger rows, and G matrices, each in parts.
struct GroupedProblem {
  GroupedProblem(int64_t tokens, int64_t num_groups, int64_t num_rows, int64_t depth, DType dtype)
      : groups(num_groups),
        n(num_rows),
        k(depth),
        x(Matrix::random(DType::kFloat32, tokens, groups * (k + 3), 1)),
        weight(Matrix::random(dtype, groups * n, k, 2)) {}

  LinearSource source(int64_t parts_per_group) {
    LinearSource source{.parts = {}, .groups = groups, .dtype = weight.tensor().dtype};
    for (int64_t part = 0; part < groups * parts_per_group; ++part) {
      const int64_t group = part / parts_per_group;
      const int64_t begin = n * (part % parts_per_group) / parts_per_group;
      const int64_t end = n * (part % parts_per_group + 1) / parts_per_group;
      source.parts.push_back(weight.tensor().rows(group * n + begin, end - begin));
    }
    return source;
  }

  /// A matrix of groups * (width + 3) columns seen as [T, G, width].
  Tensor in_groups(Matrix& matrix, int64_t width, int64_t first, int64_t count) const {
    Tensor view = matrix.tensor().rows(first, count).heads(groups, width + 3);
    view.shape[2] = width;
    return view;
  }

  Matrix run(const PackedLinear& packed, const OpMachine& machine, int64_t first, int64_t count) {
    Matrix out(DType::kFloat32, count, groups * (n + 3), groups * (n + 3) + 1);
    machine.run(&Ops::grouped_linear,
                {.x = in_groups(x, k, first, count), .weight = &packed, .out = in_groups(out, n, 0, count)});
    return out;
  }

  int64_t groups;
  int64_t n;
  int64_t k;
  Matrix x;
  Matrix weight;
};

struct GroupedShape {
  int64_t tokens, groups, n, k;
};

TEST_P(LinearTest, every_group_gives_the_sequential_sum_of_its_matrix) {
  for (const GroupedShape& shape :
       {GroupedShape{1, 1, 33, 17}, GroupedShape{1, 16, 64, 100}, GroupedShape{2, 60, 17, 33},
        GroupedShape{7, 5, 130, 45}, GroupedShape{33, 3, 100, 64}, GroupedShape{257, 2, 40, 33},
        GroupedShape{257, 1, 17, 30}, GroupedShape{40, 4, 270, 253}}) {
    GroupedProblem problem(shape.tokens, shape.groups, shape.n, shape.k, GetParam().dtype);
    const PackedLinear packed = pack(problem.source(1 + shape.groups % 2), machine_);
    ASSERT_EQ(packed.groups, shape.groups);
    ASSERT_EQ(packed.n, shape.n);
    const Matrix out = problem.run(packed, machine_, 0, shape.tokens);
    const Matrix untouched(DType::kFloat32, 1, 1);
    for (int64_t row = 0; row < shape.tokens; row += shape.tokens > 40 ? 11 : 1) {
      for (int64_t group = 0; group < shape.groups; ++group) {
        for (int64_t column = 0; column < shape.n + 3; ++column) {
          float sum = untouched.get(0, 0);
          if (column < shape.n) {
            sum = 0.0f;
            for (int64_t k = 0; k < shape.k; ++k) {
              sum = std::fma(problem.x.get(row, group * (shape.k + 3) + k),
                             problem.weight.get(group * shape.n + column, k), sum);
            }
          }
          const float got = out.get(row, group * (shape.n + 3) + column);
          if (column < shape.n) {
            expect_sum(machine_, got, sum, row, column);
          } else {
            expect_same_bits(got, sum, row, column);
          }
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST_P(LinearTest, a_grouped_row_does_not_depend_on_its_neighbours_and_equals_linear) {
  constexpr int64_t kTokens = 130;
  constexpr int64_t kGroups = 5;
  constexpr int64_t kN = 100;
  constexpr int64_t kK = 64;
  GroupedProblem problem(kTokens, kGroups, kN, kK, GetParam().dtype);
  const PackedLinear packed = pack(problem.source(2), machine_);
  const Matrix together = problem.run(packed, machine_, 0, kTokens);
  for (const int64_t chunk : {1, 9, 57}) {
    for (int64_t first = 0; first < kTokens; first += chunk) {
      const int64_t count = std::min(chunk, kTokens - first);
      const Matrix part = problem.run(packed, machine_, first, count);
      for (int64_t row = 0; row < count; ++row) {
        for (int64_t column = 0; column < kGroups * (kN + 3); ++column) {
          expect_same_bits(part.get(row, column), together.get(first + row, column), first + row, column);
        }
      }
    }
  }
  for (int64_t group = 0; group < kGroups; ++group) {
    LinearSource source{.parts = {problem.weight.tensor().rows(group * kN, kN)}, .dtype = GetParam().dtype};
    const PackedLinear single = pack(source, machine_);
    Matrix out(DType::kFloat32, kTokens, kN);
    machine_.run(&Ops::linear,
                 {.x = problem.x.tensor().columns(group * (kK + 3), kK), .weight = &single, .out = out.tensor()});
    for (int64_t row = 0; row < kTokens; ++row) {
      for (int64_t column = 0; column < kN; ++column) {
        expect_sum(machine_, together.get(row, group * (kN + 3) + column), out.get(row, column), row, column);
      }
    }
  }
}

TEST_P(LinearTest, no_grouped_rows_are_no_work) {
  GroupedProblem problem(1, 3, 40, 8, GetParam().dtype);
  const PackedLinear packed = pack(problem.source(1), machine_);
  EXPECT_GE(packed.data.bytes(), static_cast<size_t>(3 * 40 * 8 * dtype_bytes(GetParam().dtype)));
  problem.run(packed, machine_, 0, 0);
}

TEST_P(LinearTest, a_type_without_a_kernel_is_refused) {
  std::vector<int8_t> bytes(64);
  LinearSource source;
  source.parts = {Tensor(bytes.data(), DType::kInt8, {8, 8})};
  source.dtype = GetParam().dtype;
  try {
    pack(source, machine_);
    FAIL() << "packed int8";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("dtype=int8"), std::string::npos) << error.what();
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& device : test::devices_here()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) all.push_back({device, dtype});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(devices, LinearTest, testing::ValuesIn(cases()), [](const auto& info) {
  return test::test_name(info.param.device) + "_" + std::string(dtype_name(info.param.dtype));
});

}  // namespace
}  // namespace quire
