// Products of several rows behind each other, which a backend may compute in one go, against the same each waited for.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "accelerators/accelerator.h"
#include "backend/ops.h"

namespace quire {
namespace {

using test::accelerator;
using test::near;
using test::Numbers;
using test::rounding_of;

// These products are smaller than those for which a chain pays.
[[maybe_unused]] const int chains_always = setenv("QUIRE_CHAIN", "always", 1);

struct Shape {
  DType dtype = DType::kBFloat16;
  int64_t rows = 5;
  int64_t width = 256, mixed = 320, ffn_width = 192, qkv = 416;
  bool gated = true;
  bool biases = false;
  bool layer_norm = false;
  bool wide_results = false;  ///< q, k and v in float32
  int64_t row_gap = 0;        ///< between rows of activations
  int segments = 2;
};

std::string describe(const Shape& s) {
  return std::string(dtype_name(s.dtype)) + " rows " + std::to_string(s.rows) + " D=" + std::to_string(s.width) +
         " mixed " + std::to_string(s.mixed) + " F=" + std::to_string(s.ffn_width) + " qkv " + std::to_string(s.qkv) +
         (s.gated ? " gated" : "") + (s.biases ? " biases" : "") + (s.layer_norm ? " layer norm" : "") +
         (s.wide_results ? " float32" : "") + " gap " + std::to_string(s.row_gap) + " segments " +
         std::to_string(s.segments);
}

/// What lies between two attentions: out, up, down, and q, k and v of the next layer; several of these.
class Segments {
 public:
  explicit Segments(const Shape& shape) : shape_(shape), stream_(accelerator()->create_stream()) {
    for (int i = 0; i < shape.segments; ++i) {
      const auto seed = static_cast<uint32_t>(100 * i);
      parts_.push_back({.out = pack(shape.width, shape.mixed, seed + 1),
                        .up = pack(shape.gated ? 2 * shape.ffn_width : shape.ffn_width, shape.width, seed + 2),
                        .down = pack(shape.width, shape.ffn_width, seed + 3),
                        .qkv = pack(shape.qkv, shape.width, seed + 4)});
    }
  }

  /// Enqueue all, waiting for each op if `one_by_one`.
  void enqueue(bool one_by_one) {
    const Ops& ops = accelerator()->ops();
    const auto next = [&] {
      if (one_by_one) stream_->synchronize();
    };
    const auto norm = [&](Numbers& weight) {
      return NormArgs{.kind = shape_.layer_norm ? NormKind::kLayer : NormKind::kRms,
                      .eps = 1e-5f,
                      .x = hidden_.tensor(),
                      .weight = weight.vector(),
                      .bias = shape_.layer_norm ? norm_bias_.vector() : Tensor{},
                      .out = normed_.tensor()};
    };
    const auto bias = [&](Numbers& numbers) { return shape_.biases ? numbers.vector() : Tensor{}; };
    for (const Part& part : parts_) {
      ops.linear({.x = mixed_.tensor(),
                  .weight = &part.out,
                  .bias = bias(out_bias_),
                  .residual = hidden_.tensor(),
                  .out = hidden_.tensor()},
                 *stream_);
      next();
      ops.normed_linear({.norm = norm(norm_weight_),
                         .weight = &part.up,
                         .bias = bias(up_bias_),
                         .has_activation = true,
                         .activation = {.kind = Activation::kSilu, .gated = shape_.gated},
                         .up = up_.tensor(),
                         .out = activated_.tensor()},
                        *stream_);
      next();
      ops.linear({.x = activated_.tensor(),
                  .weight = &part.down,
                  .bias = {},
                  .residual = hidden_.tensor(),
                  .out = hidden_.tensor()},
                 *stream_);
      next();
      ops.normed_linear({.norm = norm(second_norm_weight_),
                         .weight = &part.qkv,
                         .bias = bias(qkv_bias_),
                         .activation = {},
                         .up = {},
                         .out = qkv_.tensor()},
                        *stream_);
      next();
    }
  }

  void reset() {
    // Where it lies has been recorded.
    const Numbers start = Numbers::random(DType::kFloat32, shape_.rows, shape_.width, 7);
    for (int64_t r = 0; r < shape_.rows; ++r) {
      for (int64_t i = 0; i < shape_.width; ++i) hidden_.set(r, i, start.get(r, i));
      for (int64_t i = 0; i < shape_.qkv; ++i) qkv_.set(r, i, NAN);
    }
  }

  void run(bool one_by_one) {
    reset();
    enqueue(one_by_one);
    stream_->synchronize();
  }

  Stream& stream() { return *stream_; }
  const Numbers& hidden() const { return hidden_; }
  const Numbers& qkv() const { return qkv_; }
  bool gaps_untouched() const {
    return hidden_.gaps_untouched() && qkv_.gaps_untouched() && activated_.gaps_untouched() && normed_.gaps_untouched();
  }

 private:
  struct Part {
    PackedLinear out, up, down, qkv;
  };

  PackedLinear pack(int64_t n, int64_t k, uint32_t seed) {
    Numbers numbers = Numbers::random(shape_.dtype, n, k, seed, 0, 1.0f / std::sqrt(static_cast<float>(k)));
    PackedLinear packed = accelerator()->pack_linear({.parts = {numbers.tensor()}, .dtype = shape_.dtype}, *stream_);
    stream_->synchronize();
    return packed;
  }

  const Shape shape_;
  std::unique_ptr<Stream> stream_;
  std::vector<Part> parts_;
  Numbers norm_weight_ = Numbers::random(DType::kFloat32, 1, shape_.width, 21);
  Numbers second_norm_weight_ = Numbers::random(DType::kFloat32, 1, shape_.width, 22);
  Numbers norm_bias_ = Numbers::random(DType::kFloat32, 1, shape_.width, 23);
  Numbers out_bias_ = Numbers::random(DType::kFloat32, 1, shape_.width, 24);
  Numbers up_bias_ = Numbers::random(DType::kFloat32, 1, 2 * shape_.ffn_width, 25);
  Numbers qkv_bias_ = Numbers::random(DType::kFloat32, 1, shape_.qkv, 26);
  Numbers mixed_ = Numbers::random(shape_.dtype, shape_.rows, shape_.mixed, 27, shape_.row_gap);
  Numbers hidden_{DType::kFloat32, shape_.rows, shape_.width, shape_.row_gap};
  Numbers normed_{shape_.dtype, shape_.rows, shape_.width, shape_.row_gap};
  Numbers up_{shape_.dtype, shape_.rows, shape_.gated ? 2 * shape_.ffn_width : shape_.ffn_width};
  Numbers activated_{shape_.dtype, shape_.rows, shape_.ffn_width, shape_.row_gap};
  Numbers qkv_{shape_.wide_results ? DType::kFloat32 : shape_.dtype, shape_.rows, shape_.qkv, shape_.row_gap};
};

class RowsChainTest : public testing::Test {
 protected:
  void SetUp() override { QUIRE_NEED_ACCELERATOR(); }

  static void check(const Shape& shape) {
    SCOPED_TRACE(describe(shape));
    Segments segments(shape);
    segments.run(/*one_by_one=*/true);
    const Numbers hidden = segments.hidden(), qkv = segments.qkv();
    segments.run(/*one_by_one=*/false);
    // Sums made in another order may fall on the other side of a rounding, which what follows carries on.
    const double tolerance = 4 * rounding_of(shape.dtype) * shape.segments;
    for (int64_t r = 0; r < shape.rows; ++r) {
      for (int64_t i = 0; i < shape.width; ++i) {
        ASSERT_TRUE(near(segments.hidden().get(r, i), hidden.get(r, i), tolerance)) << "row " << r << " column " << i;
      }
      for (int64_t i = 0; i < shape.qkv; ++i) {
        ASSERT_TRUE(near(segments.qkv().get(r, i), qkv.get(r, i), tolerance)) << "qkv, row " << r << " column " << i;
      }
    }
    EXPECT_TRUE(segments.gaps_untouched());
    // Whatever one run leaves behind the next one finds.
    const Numbers first = segments.qkv();
    for (int i = 0; i < 10; ++i) {
      segments.reset();
      segments.enqueue(/*one_by_one=*/false);
      if (i % 2 == 1) segments.stream().synchronize();
    }
    segments.stream().synchronize();
    segments.run(false);
    for (int64_t r = 0; r < shape.rows; ++r) EXPECT_TRUE(segments.qkv().row_bits_equal(r, first, r)) << r;
  }
};

TEST_F(RowsChainTest, segments_in_a_row_are_products_one_by_one) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t rows : {2, 3, 5, 8, 9, 16, 17, 33, 63, 64}) check({.dtype = dtype, .rows = rows});
  }
}

TEST_F(RowsChainTest, what_families_add) {
  check({.rows = 7, .biases = true});
  check({.rows = 6, .biases = true, .layer_norm = true, .row_gap = 8});
  check({.rows = 2, .gated = false, .biases = true});
  check({.rows = 8, .wide_results = true, .row_gap = 16});
  check({.rows = 20, .biases = true, .layer_norm = true, .wide_results = true, .row_gap = 8});
  check({.rows = 40, .gated = false, .biases = true});
}

TEST_F(RowsChainTest, widths_that_fill_no_tile_and_no_stage) {
  check({.rows = 4, .width = 64, .mixed = 64, .ffn_width = 64, .qkv = 8});
  check({.rows = 6, .width = 128, .mixed = 192, .ffn_width = 64, .qkv = 88, .gated = false});
  check({.rows = 7, .width = 192, .mixed = 128, .ffn_width = 640, .qkv = 1000});
  check({.rows = 30, .width = 192, .mixed = 128, .ffn_width = 640, .qkv = 1000});
  check({.rows = 5, .width = 4160, .mixed = 64, .ffn_width = 64, .qkv = 64, .segments = 1});
  // No part of a chain.
  check({.rows = 3, .width = 200, .mixed = 136, .ffn_width = 72, .qkv = 1000});
  check({.rows = 65});
}

TEST_F(RowsChainTest, sums_shared_by_several_blocks) {
  check({.rows = 5, .width = 64, .mixed = 1024, .ffn_width = 1088, .qkv = 32});
  check({.rows = 8, .width = 64, .mixed = 2048, .ffn_width = 640, .qkv = 48});
  check({.rows = 64, .width = 64, .mixed = 2048, .ffn_width = 640, .qkv = 48});
  check({.rows = 21, .width = 1088, .mixed = 512, .ffn_width = 64, .qkv = 24, .biases = true});
  check({.rows = 3, .width = 1088, .mixed = 512, .ffn_width = 64, .qkv = 24, .biases = true});
}

TEST_F(RowsChainTest, layers_of_a_real_model) {
  if (dlopen("libgpu_on_cpu.so", RTLD_NOW | RTLD_NOLOAD) != nullptr) GTEST_SKIP() << "takes a GPU on the CPU minutes";
  const Shape llama{.width = 4096, .mixed = 4096, .ffn_width = 14336, .qkv = 6144};
  for (const int64_t rows : {2, 8, 16, 31, 64}) {
    Shape shape = llama;
    shape.rows = rows;
    check(shape);
  }
}

TEST_F(RowsChainTest, a_segment_is_one_kernel) {
  // On a GPU only its time shows it.
  void* const library = dlopen("libgpu_on_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) GTEST_SKIP() << "not a GPU on the CPU, whose launches are counted";
  const auto launches = reinterpret_cast<uint64_t (*)()>(dlsym(library, "gpu_on_cpu_launches"));
  Segments segments({});
  segments.reset();
  const uint64_t before = launches();
  segments.enqueue(false);
  segments.stream().synchronize();
  EXPECT_EQ(launches() - before, 1u);
}

TEST_F(RowsChainTest, recorded) {
  if (!accelerator()->records_graphs()) GTEST_SKIP() << "records no graphs";
  Segments segments({.rows = 4});
  segments.run(false);
  const Numbers expected = segments.qkv();
  accelerator()->begin_recording(segments.stream());
  segments.enqueue(false);
  const auto graph = accelerator()->end_recording(segments.stream());
  for (int i = 0; i < 30; ++i) {
    segments.reset();
    graph->launch(segments.stream());
    segments.stream().synchronize();
    for (int64_t r = 0; r < 4; ++r) ASSERT_TRUE(segments.qkv().row_bits_equal(r, expected, r)) << i;
  }
}

}  // namespace
}  // namespace quire
