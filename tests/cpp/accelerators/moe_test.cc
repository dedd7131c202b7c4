// The moe op in 16 bits against the CPU in float32, with the same rounded weights and activations. The cases in float32
// are those of tests/cpp/ops/moe_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "accelerators/accelerator.h"

namespace quire {
namespace {

using test::accelerator;
using test::Numbers;
using test::Shared;

struct Shape {
  int64_t tokens;
  int32_t experts;
  int32_t top_k;
  int64_t width;
  int64_t ffn;
};

const Shape kShapes[] = {{1, 8, 2, 256, 512},  {1, 1, 1, 64, 64},       {7, 60, 6, 128, 96},
                         {32, 8, 2, 512, 256}, {33, 16, 16, 72, 40},    {257, 8, 2, 256, 320},
                         {257, 2, 1, 128, 64}, {1000, 128, 8, 128, 96}, {130, 256, 1, 104, 264}};

PackedLinear pack(Backend& backend, Stream& stream, Numbers& values, int64_t groups, DType dtype) {
  LinearSource source{.groups = groups, .dtype = dtype};
  const Tensor all = values.tensor();
  const int64_t rows = all.shape[0] / groups;
  for (int64_t g = 0; g < groups; ++g) source.parts.push_back(all.rows(g * rows, rows));
  return backend.pack_linear(source, stream);
}

/// Distinct experts for every token, unevenly: the first is chosen often.
Shared<int32_t> choose(const Shape& shape, uint32_t seed) {
  std::mt19937 random(seed);
  Shared<int32_t> chosen;
  std::vector<int32_t> ids(static_cast<size_t>(shape.experts));
  for (int64_t t = 0; t < shape.tokens; ++t) {
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin() + (t % 2), ids.end(), random);
    chosen.insert(chosen.end(), ids.begin(), ids.begin() + shape.top_k);
  }
  return chosen;
}

class MoeProblem {
 public:
  MoeProblem(const Shape& shape, DType dtype, ActivationRule rule)
      : shape_(shape),
        dtype_(dtype),
        rule_(rule),
        columns_(rule.gated ? 2 * shape.ffn : shape.ffn),
        x(Numbers::random(dtype, shape.tokens, shape.width, 1, 8)),
        up(Numbers::random(dtype, shape.experts * columns_, shape.width, 2, 0, unit(shape.width))),
        down(Numbers::random(dtype, shape.experts * shape.width, shape.ffn, 3, 0, unit(shape.ffn))),
        up_bias(Numbers::random(DType::kFloat32, shape.experts, columns_, 4)),
        down_bias(Numbers::random(DType::kFloat32, shape.experts, shape.width, 5)),
        residual(Numbers::random(DType::kFloat32, shape.tokens, shape.width, 6)),
        experts(choose(shape, 7)) {
    std::mt19937 random(8);
    std::uniform_real_distribution<float> uniform(0.1f, 1.0f);
    for (int64_t i = 0; i < shape.tokens * shape.top_k; ++i) weights.push_back(uniform(random));
  }

  Numbers run(Backend& backend, Numbers& input, DType held) {
    const auto stream = backend.create_stream();
    const PackedLinear packed_up = pack(backend, *stream, up, shape_.experts, held);
    const PackedLinear packed_down = pack(backend, *stream, down, shape_.experts, held);
    const size_t bytes = backend.moe_scratch_bytes({.num_tokens = shape_.tokens,
                                                    .num_experts = shape_.experts,
                                                    .top_k = shape_.top_k,
                                                    .width = shape_.width,
                                                    .up_columns = columns_,
                                                    .ffn_width = shape_.ffn});
    Buffer scratch = backend.allocate(std::max<size_t>(bytes, 1), MemoryKind::kWorkspace);
    Numbers out(DType::kFloat32, shape_.tokens, shape_.width, 4);
    MoeArgs args;
    args.x = input.tensor();
    args.experts = experts.data();
    args.weights = weights.data();
    args.top_k = shape_.top_k;
    args.up = &packed_up;
    args.up_bias = up_bias.tensor();
    args.activation = rule_;
    args.down = &packed_down;
    args.down_bias = down_bias.tensor();
    args.residual = residual.tensor();
    args.out = out.tensor();
    args.scratch = scratch.data();
    backend.ops().moe(args, *stream);
    stream->synchronize();
    EXPECT_TRUE(out.gaps_untouched());
    return out;
  }

  void expect_as_on_the_cpu() {
    const Numbers got = run(*accelerator(), x, dtype_);
    Numbers wide(DType::kFloat32, shape_.tokens, shape_.width);
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      for (int64_t i = 0; i < shape_.width; ++i) wide.set(t, i, x.get(t, i));
    }
    const auto cpu = create_backend("cpu", {.num_threads = 2});
    const Numbers expected = run(*cpu, wide, dtype_);
    // What stands between the two products is rounded, each of `ffn` numbers by half a unit of its own sign.
    const double tolerance = 2 * test::rounding_of(dtype_) * std::sqrt(double{1} * shape_.top_k);
    for (int64_t t = 0; t < shape_.tokens; ++t) {
      for (int64_t i = 0; i < shape_.width; ++i) {
        ASSERT_TRUE(test::near(got.get(t, i), expected.get(t, i), tolerance)) << "token " << t << ", column " << i;
      }
    }
  }

 private:
  static float unit(int64_t columns) { return 1.0f / std::sqrt(static_cast<float>(columns)); }

  Shape shape_;
  DType dtype_;
  ActivationRule rule_;
  int64_t columns_;

 public:
  Numbers x, up, down, up_bias, down_bias, residual;
  Shared<int32_t> experts;
  Shared<float> weights;
};

TEST(AcceleratorMoe, gives_what_the_cpu_gives_in_every_shape) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << ", " << shape.tokens << " tokens, " << shape.top_k
                                      << " of " << shape.experts << " experts");
      MoeProblem(shape, dtype, {.kind = Activation::kSilu, .gated = true}).expect_as_on_the_cpu();
    }
  }
}

TEST(AcceleratorMoe, takes_every_activation) {
  QUIRE_NEED_ACCELERATOR();
  const Shape shape{9, 8, 2, 128, 64};
  for (const bool gated : {false, true}) {
    for (const Activation kind : {Activation::kGelu, Activation::kGeluTanh, Activation::kRelu2}) {
      MoeProblem(shape, DType::kBFloat16, {.kind = kind, .gated = gated}).expect_as_on_the_cpu();
    }
  }
  MoeProblem(shape, DType::kBFloat16, {.kind = Activation::kGeluQuick, .gated = true, .limit = 1.5f, .offset = 1.0f})
      .expect_as_on_the_cpu();
}

TEST(AcceleratorMoe, a_token_alone_has_the_same_bits_if_asked_for) {
  QUIRE_NEED_ACCELERATOR();
  Backend& backend = *accelerator(true);
  const Shape shape{257, 8, 2, 256, 320};
  MoeProblem many(shape, DType::kBFloat16, {.kind = Activation::kSilu, .gated = true});
  const Numbers together = many.run(backend, many.x, DType::kBFloat16);
  for (const int64_t token : {0, 100, 256}) {
    MoeProblem one({1, 8, 2, 256, 320}, DType::kBFloat16, {.kind = Activation::kSilu, .gated = true});
    for (int64_t i = 0; i < shape.width; ++i) {
      one.x.set(0, i, many.x.get(token, i));
      one.residual.set(0, i, many.residual.get(token, i));
    }
    for (int64_t j = 0; j < shape.top_k; ++j) {
      const auto from = static_cast<size_t>(token * shape.top_k + j);
      one.experts[static_cast<size_t>(j)] = many.experts[from];
      one.weights[static_cast<size_t>(j)] = many.weights[from];
    }
    const Numbers alone = one.run(backend, one.x, DType::kBFloat16);
    EXPECT_TRUE(alone.row_bits_equal(0, together, token)) << "token " << token;
  }
}

}  // namespace
}  // namespace quire
