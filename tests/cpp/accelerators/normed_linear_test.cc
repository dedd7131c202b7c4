// normed_linear of a GPU against its definition in double (linear_numbers.h).
#include <algorithm>
#include <cmath>
#include <string>

#include "accelerators/accelerator.h"
#include "accelerators/linear_numbers.h"

namespace quire {
namespace {

using test::accelerator;
using test::dot;
using test::kAllTypes;
using test::Numbers;
using test::pack;
using test::random_bias;
using test::random_weight;

double activate(Activation kind, double x) {
  switch (kind) {
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kGelu: return 0.5 * x * (1.0 + std::erf(x * std::sqrt(0.5)));
    case Activation::kGeluTanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kGeluQuick: return x / (1.0 + std::exp(-1.702 * x));
    case Activation::kRelu: return std::max(0.0, x);
    default: return x > 0.0 ? x * x : 0.0;
  }
}

struct NormedCase {
  DType dtype;
  int64_t tokens, n, d;
  NormKind kind = NormKind::kRms;
  bool bias = false;
  bool has_activation = false;
  ActivationRule rule;
  DType out = DType::kFloat32;
  bool plain_weight = false;  ///< no weight of the norm
  bool in_float32 = false;    ///< activations, whatever the weights are
  DType activations() const { return in_float32 ? DType::kFloat32 : dtype; }
};

void check_normed(const NormedCase& c) {
  SCOPED_TRACE(std::string(dtype_name(c.dtype)) + ", T " + std::to_string(c.tokens) + ", N " + std::to_string(c.n) +
               ", D " + std::to_string(c.d) + ", activation " + std::to_string(static_cast<int>(c.rule.kind)) +
               (c.rule.gated ? " gated" : "") + (c.in_float32 ? " in float32" : ""));
  Backend& backend = *accelerator();
  const auto stream = backend.create_stream();
  const bool layer = c.kind == NormKind::kLayer;
  Numbers weight = random_weight(c.dtype, c.n, c.d, 1);
  const PackedLinear packed = pack(weight, *stream);
  Numbers x = Numbers::random(DType::kFloat32, c.tokens, c.d, 2, 4, 3.0f);
  for (int64_t t = 0; t < c.tokens; ++t) x.set(t, 0, 40.0f);
  Numbers norm_weight = Numbers::random(DType::kFloat32, 1, c.d, 3);
  Numbers norm_bias = Numbers::random(DType::kFloat32, 1, c.d, 4);
  Numbers bias = random_bias(c.dtype, c.n, 5);
  const int64_t width = c.rule.gated ? c.n / 2 : c.n;
  Numbers room(c.activations(), c.tokens, c.d);
  Numbers up(c.activations(), c.tokens, c.n);
  Numbers out(c.has_activation ? c.activations() : c.out, c.tokens, width);
  NormedLinearArgs args;
  args.norm = {.kind = c.kind, .eps = 1e-5f, .x = x.tensor(), .weight = {}, .bias = {}, .out = room.tensor()};
  if (!c.plain_weight) args.norm.weight = norm_weight.vector();
  if (layer) args.norm.bias = norm_bias.vector();
  args.weight = &packed;
  if (c.bias) args.bias = bias.vector();
  args.has_activation = c.has_activation;
  args.activation = c.rule;
  if (c.has_activation) args.up = up.tensor();
  args.out = out.tensor();
  backend.ops().normed_linear(args, *stream);
  stream->synchronize();
  for (int64_t t = 0; t < c.tokens; ++t) {
    double mean = 0.0, square = 0.0;
    for (int64_t i = 0; layer && i < c.d; ++i) mean += x.get(t, i) / static_cast<double>(c.d);
    for (int64_t i = 0; i < c.d; ++i) square += std::pow(x.get(t, i) - mean, 2) / static_cast<double>(c.d);
    Numbers normed(c.activations(), 1, c.d);
    for (int64_t i = 0; i < c.d; ++i) {
      normed.set(0, i,
                 static_cast<float>((x.get(t, i) - mean) / std::sqrt(square + 1e-5) *
                                        (c.plain_weight ? 1.0 : norm_weight.get(0, i)) +
                                    (layer ? norm_bias.get(0, i) : 0.0)));
    }
    const auto y = [&](int64_t n) { return dot(normed, 0, weight, n) + (c.bias ? bias.get(0, n) : 0.0); };
    for (int64_t f = 0; f < width; ++f) {
      double expected = y(f);
      if (c.has_activation) {
        double other = c.rule.gated ? y(width + f) : 0.0;
        if (c.rule.limit > 0.0f) {
          expected = std::min<double>(expected, c.rule.limit);
          other = std::clamp<double>(other, -c.rule.limit, c.rule.limit);
        }
        expected = activate(c.rule.kind, expected);
        if (c.rule.gated) expected *= other + c.rule.offset;
      }
      // Without fusion both halves are rounded before the activation.
      const double bound = c.activations() == DType::kFloat32 ? 1e-4 : 4.0 * test::rounding_of(c.dtype);
      ASSERT_TRUE(test::near(out.get(t, f), expected, bound)) << "row " << t << ", column " << f;
    }
  }
  EXPECT_TRUE(out.gaps_untouched());
}

TEST(NormedLinear, is_norm_linear_and_activation) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    for (const int64_t tokens : {1, 2, 4, 7, 8, 16, 40}) {
      check_normed({dtype, tokens, 96, 128});
      check_normed({dtype, tokens, 130, 576, NormKind::kLayer, true, false, {}, dtype});
      check_normed({dtype, tokens, 64, 2048, NormKind::kRms, false, false, {}, dtype, true});
      check_normed({dtype, tokens, 24, 5000, NormKind::kLayer, false, false, {}, DType::kFloat32});
      check_normed({dtype, tokens, 600, 264, NormKind::kRms, true, true, {.kind = Activation::kSilu, .gated = true}});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(NormedLinear, takes_few_rows_of_a_large_matrix) {
  QUIRE_NEED_ACCELERATOR();
  const ActivationRule gate{.kind = Activation::kSilu, .gated = true};
  check_normed({DType::kBFloat16, 3, 5328, 4104, NormKind::kRms, true, true, gate});
  check_normed({DType::kFloat16, 2, 5320, 4104, NormKind::kLayer, false, false, {}, DType::kFloat32});
}

// As in linear_test.cc, but pairs of rows of the matrix must stay together.
TEST(NormedLinear, takes_few_rows_of_matrices_of_any_width) {
  QUIRE_NEED_ACCELERATOR();
  const ActivationRule gate{.kind = Activation::kSilu, .gated = true};
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t n : {192, 336, 448, 800, 1024}) {
      check_normed({dtype, 20, n, 72, NormKind::kRms, false, true, gate});
      check_normed({dtype, 64, n, 328, NormKind::kLayer, true, true, gate});
      if (HasFatalFailure()) return;
    }
    for (const int64_t n : {8448, 20'000, 28'672}) check_normed({dtype, 11, n, 72, NormKind::kRms, true, true, gate});
  }
}

TEST(NormedLinear, rounds_nothing_between_float32_and_weights_of_16_bits) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t tokens : {1, 2, 16, 40}) {
      NormedCase plain{dtype, tokens, 96, 128};
      plain.in_float32 = true;
      check_normed(plain);
      NormedCase gated{
          dtype, tokens, 600, 264, NormKind::kLayer, true, true, {.kind = Activation::kSilu, .gated = true}};
      gated.in_float32 = true;
      check_normed(gated);
    }
  }
}

TEST(NormedLinear, knows_all_activations) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kAllTypes) {
    for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh, Activation::kGeluQuick,
                                  Activation::kRelu, Activation::kRelu2}) {
      for (const int64_t tokens : {1, 3, 20}) {
        check_normed({dtype, tokens, 66, 96, NormKind::kRms, true, true, {.kind = kind}});
        check_normed({dtype, tokens, 66, 96, NormKind::kLayer, true, true, {.kind = kind, .gated = true}});
        check_normed({dtype,
                      tokens,
                      66,
                      96,
                      NormKind::kRms,
                      true,
                      true,
                      {.kind = kind, .gated = true, .limit = 0.7f, .offset = 1.0f}});
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace quire
