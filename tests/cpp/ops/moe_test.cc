#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "ops/op_machine.h"

namespace quire {
namespace {

using test::Floats;
using test::kNan;
using test::OpMachine;
using test::OpVector;

/// Which experts tokens go to.
enum class Crowd {
  kRandom,
  kTheSame,   ///< all tokens to the last top_k
  kOneAlone,  ///< the first token to other experts than all others, where there are enough
};

struct Shape {
  int64_t tokens;
  int32_t experts;
  int32_t top_k;
  int64_t width;
  int64_t ffn;
};

const Shape kShapes[] = {{1, 1, 1, 33, 17},   {1, 8, 2, 100, 130},  {2, 2, 2, 17, 33},    {7, 8, 3, 130, 100},
                         {7, 60, 60, 17, 16}, {33, 60, 6, 33, 17},  {33, 8, 8, 64, 32},   {130, 1, 1, 64, 48},
                         {257, 8, 2, 33, 65}, {257, 60, 4, 17, 33}, {257, 2, 1, 100, 130}};

float rounded(float value, DType dtype) {
  if (dtype == DType::kBFloat16) return to_float(to_bfloat16(value));
  return dtype == DType::kFloat16 ? to_float(to_float16(value)) : value;
}

Floats weights_of(int64_t rows, int64_t columns, uint32_t seed, DType dtype) {
  Floats made = Floats::random({rows, columns}, seed, 3, 1.0f / std::sqrt(static_cast<float>(columns)));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) made.at(row, i) = rounded(made.at(row, i), dtype);
  }
  return made;
}

/// A moe op with all it reads.
struct Problem {
  Problem(const Shape& what, DType type, ActivationRule activation)
      : shape(what),
        dtype(type),
        rule(activation),
        up_rows(what.ffn * (activation.gated ? 2 : 1)),
        x(Floats::random({what.tokens, what.width}, 1, 5)),
        up(weights_of(what.experts * up_rows, what.width, 2, type)),
        down(weights_of(what.experts * what.width, what.ffn, 3, type)),
        up_bias(Floats::random({what.experts, up_rows}, 4)),
        down_bias(Floats::random({what.experts, what.width}, 5)),
        residual(Floats::random({what.tokens, what.width}, 6, 4)),
        weights(Floats::random({what.tokens, what.top_k}, 7)) {
    send(Crowd::kRandom);
  }

  void send(Crowd crowd) {
    experts.clear();
    std::mt19937 random(11);
    std::vector<int32_t> ids(static_cast<size_t>(shape.experts));
    for (int64_t token = 0; token < shape.tokens; ++token) {
      std::iota(ids.begin(), ids.end(), 0);
      if (crowd == Crowd::kRandom) std::shuffle(ids.begin(), ids.end(), random);
      if (crowd == Crowd::kTheSame || (crowd == Crowd::kOneAlone && token > 0)) std::reverse(ids.begin(), ids.end());
      experts.insert(experts.end(), ids.begin(), ids.begin() + shape.top_k);
    }
  }

  int32_t expert(int64_t token, int64_t j) const { return experts[static_cast<size_t>(token * shape.top_k + j)]; }

  /// The rows of each expert in two parts where there are two halves, as checkpoints have them.
  PackedLinear pack_up(const OpMachine& machine) {
    LinearSource source{.parts = {}, .groups = shape.experts, .dtype = dtype};
    for (int64_t first = 0; first < up.rows(); first += shape.ffn) {
      source.parts.push_back(up.tensor().rows(first, shape.ffn));
    }
    return machine.backend->pack_linear(source, *machine.stream);
  }

  PackedLinear pack_down(const OpMachine& machine) {
    LinearSource source{.parts = {}, .groups = shape.experts, .dtype = dtype};
    for (int64_t e = 0; e < shape.experts; ++e) {
      source.parts.push_back(down.tensor().rows(e * shape.width, shape.width));
    }
    return machine.backend->pack_linear(source, *machine.stream);
  }

  Shape shape;
  DType dtype;
  ActivationRule rule;
  int64_t up_rows;
  Floats x, up, down, up_bias, down_bias, residual, weights;
  OpVector<int32_t> experts;
  bool with_biases = true;
  bool with_residual = true;
};

/// The problem on one machine, whole or in part.
class Runner {
 public:
  Runner(Problem& problem, const OpMachine& machine)
      : problem_(problem), machine_(machine), up_(problem.pack_up(machine)), down_(problem.pack_down(machine)) {}

  MoeArgs args(int64_t first, int64_t count) {
    const Shape& shape = problem_.shape;
    MoeArgs args;
    args.x = problem_.x.tensor().rows(first, count);
    args.experts = problem_.experts.data() + first * shape.top_k;
    args.weights = problem_.weights.row(first);
    args.top_k = shape.top_k;
    args.up = &up_;
    args.activation = problem_.rule;
    args.down = &down_;
    if (problem_.with_biases) {
      args.up_bias = problem_.up_bias.tensor();
      args.down_bias = problem_.down_bias.tensor();
    }
    if (problem_.with_residual) args.residual = problem_.residual.tensor().rows(first, count);
    return args;
  }

  void run(MoeArgs args) {
    const Shape& shape = problem_.shape;
    const size_t bytes = machine_.backend->moe_scratch_bytes({.num_tokens = args.x.shape[0],
                                                              .num_experts = shape.experts,
                                                              .top_k = shape.top_k,
                                                              .width = shape.width,
                                                              .up_columns = up_.n,
                                                              .ffn_width = shape.ffn});
    constexpr std::byte kFresh{0xff};  // NaN in every type
    OpVector<std::byte> scratch(bytes + kGuardBytes, kFresh);
    args.scratch = scratch.data();
    machine_.run(&Ops::moe, args);
    EXPECT_EQ(std::count(scratch.end() - kGuardBytes, scratch.end(), kFresh), kGuardBytes);
  }

  Floats run(int64_t first, int64_t count) {
    Floats out({count, problem_.shape.width}, 3);
    MoeArgs args = this->args(first, count);
    args.out = out.tensor();
    run(args);
    EXPECT_TRUE(out.gaps_untouched());
    return out;
  }

  Floats run() { return run(0, problem_.shape.tokens); }

 private:
  static constexpr std::ptrdiff_t kGuardBytes = 256;
  Problem& problem_;
  const OpMachine& machine_;
  PackedLinear up_;
  PackedLinear down_;
};

Floats run(Problem& problem, const OpMachine& machine) {
  return Runner(problem, machine).run();
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::kGeluQuick: return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kRelu: return std::max(0.0, x);
    case Activation::kRelu2: return x > 0.0 ? x * x : 0.0;
    default: return x / (1.0 + std::exp(-x));
  }
}

/// One token's way through one expert, in double precision or, with Number = float, in the order of operations that
/// ops/moe.h promises.
template <typename Number>
std::vector<Number> through_expert(const Problem& problem, int64_t token, int64_t expert) {
  const Shape& shape = problem.shape;
  const ActivationRule& rule = problem.rule;
  std::vector<Number> up, activation, out;
  for (int64_t n = 0; n < problem.up_rows; ++n) {
    Number sum = 0;
    for (int64_t k = 0; k < shape.width; ++k) {
      sum = std::fma(Number{problem.x.at(token, k)}, Number{problem.up.at(expert * problem.up_rows + n, k)}, sum);
    }
    up.push_back(problem.with_biases ? sum + Number{problem.up_bias.at(expert, n)} : sum);
  }
  for (size_t f = 0; f < static_cast<size_t>(shape.ffn); ++f) {
    const Number limit = rule.limit > 0.0f ? Number{rule.limit} : Number{test::kInf};
    Number value = static_cast<Number>(activated(rule.kind, double{rule.gated ? std::min(up[f], limit) : up[f]}));
    if (rule.gated) {
      value *= std::clamp(up[f + static_cast<size_t>(shape.ffn)], -limit, limit) + Number{rule.offset};
    }
    activation.push_back(value);
  }
  for (int64_t n = 0; n < shape.width; ++n) {
    Number sum = 0;
    for (int64_t k = 0; k < shape.ffn; ++k) {
      sum = std::fma(activation[static_cast<size_t>(k)], Number{problem.down.at(expert * shape.width + n, k)}, sum);
    }
    out.push_back(problem.with_biases ? sum + Number{problem.down_bias.at(expert, n)} : sum);
  }
  return out;
}

template <typename Number>
std::vector<Number> expected_row(const Problem& problem, int64_t token) {
  std::vector<Number> sums(static_cast<size_t>(problem.shape.width));
  for (int64_t j = 0; j < problem.shape.top_k; ++j) {
    const std::vector<Number> part = through_expert<Number>(problem, token, problem.expert(token, j));
    for (size_t i = 0; i < sums.size(); ++i) sums[i] = std::fma(Number{problem.weights.at(token, j)}, part[i], sums[i]);
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    if (problem.with_residual) sums[i] += Number{problem.residual.at(token, static_cast<int64_t>(i))};
  }
  return sums;
}

/// All rows of few, some of many.
std::vector<int64_t> tokens_to_check(int64_t tokens) {
  std::vector<int64_t> checked;
  for (int64_t token = 0; token < tokens; token += tokens > 40 ? 7 : 1) checked.push_back(token);
  return checked;
}

void expect_close(const OpMachine& machine, const Floats& out, const Problem& problem) {
  for (const int64_t token : tokens_to_check(out.rows())) {
    const std::vector<double> expected = expected_row<double>(problem, token);
    for (int64_t i = 0; i < problem.shape.width; ++i) {
      // Sums of a few hundred products of order 1, times up to 60 weights.
      ASSERT_TRUE(test::close(out.at(token, i), expected[static_cast<size_t>(i)], machine.tolerance(2e-5)))
          << "token " << token << ", column " << i;
    }
  }
}

/// To the last bit on the CPU, which promises the order of the sums; near the definition elsewhere.
void expect_exact(const OpMachine& machine, const Floats& out, const Problem& problem) {
  if (!machine.is_cpu) return expect_close(machine, out, problem);
  for (const int64_t token : tokens_to_check(out.rows())) {
    const std::vector<float> expected = expected_row<float>(problem, token);
    for (int64_t i = 0; i < problem.shape.width; ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(out.at(token, i)), std::bit_cast<uint32_t>(expected[static_cast<size_t>(i)]))
          << "token " << token << ", column " << i << ": got " << out.at(token, i);
    }
  }
}

struct Case {
  std::string device;
  DType dtype;
};

class MoeTest : public testing::TestWithParam<Case> {
 protected:
  DType dtype() const { return GetParam().dtype; }

  OpMachine machine{GetParam().device, 3};
};

/// Functions without exp are the same on every instruction set, so with them the whole op is.
constexpr ActivationRule kExactRules[] = {{.kind = Activation::kRelu, .gated = true},
                                          {.kind = Activation::kRelu2, .gated = false},
                                          {.kind = Activation::kRelu, .gated = true, .limit = 0.75f, .offset = 1.0f}};

TEST_P(MoeTest, every_shape_gives_the_sums_in_their_order) {
  for (const Shape& shape : kShapes) {
    for (const ActivationRule& rule : kExactRules) {
      Problem problem(shape, dtype(), rule);
      SCOPED_TRACE("tokens " + std::to_string(shape.tokens) + ", experts " + std::to_string(shape.experts));
      expect_exact(machine, run(problem, machine), problem);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(MoeTest, rows_whole_pages_apart_give_the_sums_in_their_order) {
  // 256 + 3 * 256 columns of scratch, and x as far apart; few rows of an expert and many.
  for (const int64_t tokens : {40, 130}) {
    Problem problem({tokens, 2, 1, 256, 256}, dtype(), kExactRules[0]);
    problem.x = Floats::random({tokens, 256}, 1, 1024 - 256);
    for (const Crowd crowd : {Crowd::kRandom, Crowd::kTheSame}) {
      problem.send(crowd);
      expect_exact(machine, run(problem, machine), problem);
    }
  }
}

TEST_P(MoeTest, every_crowd_gives_the_sums_in_their_order) {
  for (const Shape& shape : {Shape{33, 8, 2, 33, 17}, Shape{257, 60, 1, 17, 33}, Shape{130, 8, 3, 64, 32}}) {
    for (const Crowd crowd : {Crowd::kTheSame, Crowd::kOneAlone}) {
      Problem problem(shape, dtype(), kExactRules[0]);
      problem.send(crowd);
      expect_exact(machine, run(problem, machine), problem);
    }
  }
}

TEST_P(MoeTest, functions_with_exp_are_close) {
  for (const Shape& shape : {Shape{1, 8, 2, 100, 130}, Shape{7, 60, 6, 130, 100}, Shape{33, 2, 2, 33, 17}}) {
    for (const ActivationRule& rule :
         {ActivationRule{.kind = Activation::kSilu, .gated = true}, ActivationRule{.kind = Activation::kSilu},
          ActivationRule{.kind = Activation::kGeluQuick, .gated = true, .limit = 1.0f, .offset = 1.0f}}) {
      Problem problem(shape, dtype(), rule);
      expect_close(machine, run(problem, machine), problem);
    }
  }
}

TEST_P(MoeTest, biases_and_residual_may_be_absent) {
  for (const bool with_biases : {false, true}) {
    for (const bool with_residual : {false, true}) {
      Problem problem({7, 8, 3, 45, 50}, dtype(), kExactRules[0]);
      problem.with_biases = with_biases;
      problem.with_residual = with_residual;
      expect_exact(machine, run(problem, machine), problem);
    }
  }
}

TEST_P(MoeTest, the_output_may_be_the_residual_and_the_input) {
  for (const int64_t tokens : {1, 2, 40}) {
    Problem problem({tokens, 8, 3, 45, 50}, dtype(), kExactRules[0]);
    Runner runner(problem, machine);
    const Floats apart = runner.run();
    const Floats x = problem.x;
    const Floats residual = problem.residual;
    const auto expect_same = [&](const Floats& out, const Floats& expected) {
      for (int64_t token = 0; token < tokens; ++token) EXPECT_TRUE(out.row_equals(token, expected, token));
    };

    MoeArgs args = runner.args(0, tokens);
    args.out = args.residual;
    runner.run(args);
    expect_same(problem.residual, apart);
    EXPECT_TRUE(problem.residual.gaps_untouched());

    problem.residual = residual;
    args = runner.args(0, tokens);
    args.out = args.x;
    runner.run(args);
    expect_same(problem.x, apart);
    EXPECT_TRUE(problem.x.gaps_untouched());

    problem.x = problem.residual = x;
    const Floats doubled = runner.run();
    args = runner.args(0, tokens);
    args.out = args.residual = args.x;
    runner.run(args);
    expect_same(problem.x, doubled);
  }
}

TEST_P(MoeTest, a_row_does_not_depend_on_its_neighbours_nor_on_threads) {
  Problem problem({130, 8, 2, 64, 100}, dtype(), {.kind = Activation::kSilu, .gated = true});
  const Floats together = run(problem, machine);
  for (const int threads : {1, 2}) {
    const OpMachine other(GetParam().device, threads);
    Runner runner(problem, other);
    for (const int64_t chunk : {1, 7, 40}) {
      for (int64_t first = 0; first < 130; first += chunk) {
        const int64_t count = std::min<int64_t>(chunk, 130 - first);
        const Floats part = runner.run(first, count);
        for (int64_t row = 0; row < count; ++row) ASSERT_TRUE(part.row_equals(row, together, first + row));
      }
    }
  }
}

TEST_P(MoeTest, experts_that_nobody_uses_are_not_read) {
  Problem problem({33, 8, 3, 33, 20}, dtype(), kExactRules[0]);
  problem.send(Crowd::kTheSame);  // 7, 6 and 5
  const Floats clean = run(problem, machine);
  for (int64_t row = 0; row < 5 * problem.up_rows; ++row) {
    for (int64_t i = 0; i < 33; ++i) problem.up.at(row, i) = kNan;
  }
  for (int64_t row = 0; row < 5 * 33; ++row) {
    for (int64_t i = 0; i < 20; ++i) problem.down.at(row, i) = kNan;
  }
  const Floats out = run(problem, machine);
  for (int64_t token = 0; token < 33; ++token) ASSERT_TRUE(out.row_equals(token, clean, token));
}

TEST_P(MoeTest, a_token_that_is_not_finite_leaves_the_others_alone) {
  Problem problem({20, 4, 2, 33, 20}, dtype(), kExactRules[0]);
  const Floats clean = run(problem, machine);
  problem.x.at(5, 3) = kNan;
  problem.weights.at(6, 1) = kNan;
  const Floats out = run(problem, machine);
  for (int64_t token = 0; token < 20; ++token) {
    if (token == 5 || token == 6) {
      for (int64_t i = 0; i < 33; ++i) EXPECT_TRUE(std::isnan(out.at(token, i)));
    } else {
      EXPECT_TRUE(out.row_equals(token, clean, token));
    }
  }
}

TEST_P(MoeTest, no_tokens_are_no_work) {
  Problem problem({1, 4, 2, 33, 20}, dtype(), kExactRules[0]);
  EXPECT_EQ(Runner(problem, machine).run(0, 0).rows(), 0);
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& device : test::devices_here()) {
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) all.push_back({device, dtype});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(devices, MoeTest, testing::ValuesIn(cases()), [](const auto& info) {
  return test::test_name(info.param.device) + "_" + std::string(dtype_name(info.param.dtype));
});

}  // namespace
}  // namespace quire
