// Ops of one token in a row, which a backend may compute in one go, against the same ops each waited for.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
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
using test::Shared;

// These products are smaller than those for which a chain pays.
[[maybe_unused]] const int chains_always = setenv("QUIRE_CHAIN", "always", 1);

struct Shape {
  DType dtype = DType::kBFloat16;
  int32_t width = 256;
  int32_t heads = 8, kv_heads = 2, head_dim = 64;
  int32_t ffn_width = 320;
  bool gated = true;
  bool biases = false;
  bool layer_norm = false;
  bool interleaved = false;
  bool sinks = false;
  int32_t window = 0;
  int32_t block_size = 16;
  int32_t layers = 3;

  int32_t qkv() const { return (heads + 2 * kv_heads) * head_dim; }
};

std::string describe(const Shape& s, int32_t context) {
  return std::string(dtype_name(s.dtype)) + " D=" + std::to_string(s.width) + " heads " + std::to_string(s.heads) +
         "/" + std::to_string(s.kv_heads) + "x" + std::to_string(s.head_dim) + " F=" + std::to_string(s.ffn_width) +
         (s.gated ? " gated" : "") + (s.biases ? " biases" : "") + (s.layer_norm ? " layer norm" : "") +
         (s.interleaved ? " interleaved" : "") + (s.sinks ? " sinks" : "") + " window " + std::to_string(s.window) +
         " blocks of " + std::to_string(s.block_size) + " layers " + std::to_string(s.layers) + " context " +
         std::to_string(context);
}

/// A model of some layers, and a step of one token behind `context` - 1 others, whose keys and values are random.
class Model {
 public:
  Model(const Shape& shape, int32_t context)
      : shape_(shape), stream_(accelerator()->create_stream()), context_(context) {
    for (int32_t i = 0; i < shape.layers; ++i) layers_.push_back(std::make_unique<Layer>(*this, 100 * i));
    make_batch();
    make_cache();
  }

  /// Enqueue the step, waiting for each op if `one_by_one`.
  void enqueue(bool one_by_one) {
    const Ops& ops = accelerator()->ops();
    const auto next = [&] {
      if (one_by_one) stream_->synchronize();
    };
    const int32_t dim = shape_.head_dim;
    const Tensor q = qkv_.tensor().columns(0, shape_.heads * dim).heads(shape_.heads, dim);
    const Tensor k = qkv_.tensor().columns(shape_.heads * dim, shape_.kv_heads * dim).heads(shape_.kv_heads, dim);
    const Tensor v = qkv_.tensor()
                         .columns((shape_.heads + shape_.kv_heads) * dim, shape_.kv_heads * dim)
                         .heads(shape_.kv_heads, dim);
    for (const auto& layer : layers_) {
      ops.normed_linear({.norm = layer->norm(*this, layer->norm_weight),
                         .weight = &layer->qkv,
                         .bias = layer->bias(layer->qkv_bias),
                         .activation = {},
                         .up = {},
                         .out = qkv_.tensor()},
                        *stream_);
      next();
      RopeArgs rope;
      rope.rows = rope_rows_.data();
      rope.cos = cos_.tensor();
      rope.sin = sin_.tensor();
      rope.layout = shape_.interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalf;
      ops.rope_kv_write({.q = q, .rope = rope, .kv = {.k = k, .v = v, .kv = layer->kv, .slots = slots_.data()}},
                        *stream_);
      next();
      ops.attention({.q = q,
                     .kv = layer->kv,
                     .batch = &batch_,
                     .scale = 0.125f,
                     .window = shape_.window,
                     .sinks = shape_.sinks ? sinks_.data() : nullptr,
                     .out = mixed_.tensor().heads(shape_.heads, dim)},
                    *stream_);
      next();
      ops.linear({.x = mixed_.tensor(),
                  .weight = &layer->out,
                  .bias = layer->bias(layer->out_bias),
                  .residual = hidden_.tensor(),
                  .out = hidden_.tensor()},
                 *stream_);
      next();
      ops.normed_linear({.norm = layer->norm(*this, layer->ffn_norm_weight),
                         .weight = &layer->up,
                         .bias = layer->bias(layer->up_bias),
                         .has_activation = true,
                         .activation = {.kind = Activation::kSilu, .gated = shape_.gated},
                         .up = up_.tensor(),
                         .out = activated_.tensor()},
                        *stream_);
      next();
      ops.linear({.x = activated_.tensor(),
                  .weight = &layer->down,
                  .bias = {},
                  .residual = hidden_.tensor(),
                  .out = hidden_.tensor()},
                 *stream_);
      next();
    }
  }

  /// What the step makes of the token's hidden state.
  Numbers run(bool one_by_one) {
    reset();
    enqueue(one_by_one);
    stream_->synchronize();
    return hidden_;
  }

  void reset() {
    // Where it lies has been recorded.
    const Numbers start = Numbers::random(DType::kFloat32, 1, shape_.width, 7);
    for (int64_t i = 0; i < shape_.width; ++i) hidden_.set(0, i, start.get(0, i));
    std::copy(cache_.begin(), cache_.end(), pages_.begin());
  }

  Stream& stream() { return *stream_; }
  const Numbers& hidden() const { return hidden_; }
  const Shared<std::byte>& pages() const { return pages_; }

 private:
  struct Layer {
    Layer(Model& model, uint32_t seed) : model_(model) {
      const Shape& s = model.shape_;
      qkv = model.pack(s.qkv(), s.width, seed + 1);
      out = model.pack(s.width, s.heads * s.head_dim, seed + 2);
      up = model.pack(s.gated ? 2 * s.ffn_width : s.ffn_width, s.width, seed + 3);
      down = model.pack(s.width, s.ffn_width, seed + 4);
      norm_weight = Numbers::random(DType::kFloat32, 1, s.width, seed + 5);
      ffn_norm_weight = Numbers::random(DType::kFloat32, 1, s.width, seed + 6);
      qkv_bias = Numbers::random(DType::kFloat32, 1, qkv.n, seed + 7);
      out_bias = Numbers::random(DType::kFloat32, 1, out.n, seed + 8);
      up_bias = Numbers::random(DType::kFloat32, 1, up.n, seed + 9);
    }
    Tensor bias(Numbers& numbers) const { return model_.shape_.biases ? numbers.vector() : Tensor{}; }
    NormArgs norm(Model& model, Numbers& weight) const {
      return {.kind = model.shape_.layer_norm ? NormKind::kLayer : NormKind::kRms,
              .eps = 1e-5f,
              .x = model.hidden_.tensor(),
              .weight = weight.vector(),
              .bias = model.shape_.layer_norm ? out_bias.vector() : Tensor{},
              .out = model.normed_.tensor()};
    }
    Model& model_;
    PackedLinear qkv, out, up, down;
    Numbers norm_weight{DType::kFloat32, 1, 1}, ffn_norm_weight{DType::kFloat32, 1, 1};
    Numbers qkv_bias{DType::kFloat32, 1, 1}, up_bias{DType::kFloat32, 1, 1};
    mutable Numbers out_bias{DType::kFloat32, 1, 1};
    KvLayer kv;
  };

  PackedLinear pack(int64_t n, int64_t k, uint32_t seed) {
    Numbers numbers = Numbers::random(shape_.dtype, n, k, seed, 0, 1.0f / std::sqrt(static_cast<float>(k)));
    PackedLinear packed = accelerator()->pack_linear({.parts = {numbers.tensor()}, .dtype = shape_.dtype}, *stream_);
    stream_->synchronize();
    return packed;
  }

  void make_batch() {
    const int32_t blocks = (context_ + shape_.block_size - 1) / shape_.block_size;
    for (int32_t i = 0; i < blocks; ++i) tables_.push_back(i);
    std::shuffle(tables_.begin(), tables_.end(), std::mt19937(3));
    const int32_t position = context_ - 1;
    positions_ = {position};
    rope_rows_ = {position};
    slots_ = {int64_t{tables_.back()} * shape_.block_size + position % shape_.block_size};
    query_start_ = {0, 1};
    contexts_ = {context_};
    starts_ = {0};
    batch_ = {.num_tokens = 1,
              .num_sequences = 1,
              .positions = positions_.data(),
              .rope_rows = rope_rows_.data(),
              .slots = slots_.data(),
              .query_start = query_start_.data(),
              .context_lens = contexts_.data(),
              .block_tables = tables_.data(),
              .block_starts = starts_.data(),
              .max_query_len = 1,
              .num_single_queries = 1};
    cos_ = Numbers::random(DType::kFloat32, context_, shape_.head_dim / 2, 11);
    sin_ = Numbers::random(DType::kFloat32, context_, shape_.head_dim / 2, 12);
    for (int32_t h = 0; h < shape_.heads; ++h) sinks_.push_back(static_cast<float>(h % 3) - 0.5f);
  }

  /// Keys and values of the tokens before, by the backend's own op; everything else is NaN.
  void make_cache() {
    KvLayer kv{.dtype = shape_.dtype,
               .num_blocks = static_cast<int64_t>(tables_.size()),
               .block_size = shape_.block_size,
               .num_kv_heads = shape_.kv_heads,
               .head_dim = shape_.head_dim,
               .v_head_dim = shape_.head_dim};
    kv.block_bytes = accelerator()->kv_block_bytes(kv);
    const int64_t layer_bytes = kv.block_bytes * kv.num_blocks;
    pages_.assign(static_cast<size_t>(layer_bytes * shape_.layers), std::byte{0xff});
    const int32_t before = context_ - 1, columns = shape_.kv_heads * shape_.head_dim;
    Shared<int64_t> slots;
    for (int32_t t = 0; t < before; ++t) {
      slots.push_back(int64_t{tables_[static_cast<size_t>(t / shape_.block_size)]} * shape_.block_size +
                      t % shape_.block_size);
    }
    for (size_t i = 0; i < layers_.size(); ++i) {
      kv.data = pages_.data() + static_cast<int64_t>(i) * layer_bytes;
      layers_[i]->kv = kv;
      if (before == 0) continue;
      Numbers k = Numbers::random(shape_.dtype, before, columns, static_cast<uint32_t>(50 + i));
      Numbers v = Numbers::random(shape_.dtype, before, columns, static_cast<uint32_t>(60 + i));
      accelerator()->ops().kv_write({.k = k.tensor().heads(shape_.kv_heads, shape_.head_dim),
                                     .v = v.tensor().heads(shape_.kv_heads, shape_.head_dim),
                                     .kv = kv,
                                     .slots = slots.data()},
                                    *stream_);
      stream_->synchronize();
    }
    cache_.assign(pages_.begin(), pages_.end());
  }

  const Shape shape_;
  std::unique_ptr<Stream> stream_;
  int32_t context_;
  std::vector<std::unique_ptr<Layer>> layers_;
  Shared<int32_t> positions_, rope_rows_, query_start_, contexts_, tables_, starts_;
  Shared<int64_t> slots_;
  Shared<float> sinks_;
  Shared<std::byte> pages_;
  std::vector<std::byte> cache_;
  RaggedBatch batch_;
  Numbers cos_{DType::kFloat32, 1, 1}, sin_{DType::kFloat32, 1, 1};
  Numbers hidden_{DType::kFloat32, 1, shape_.width};
  Numbers normed_{shape_.dtype, 1, shape_.width};
  Numbers qkv_{shape_.dtype, 1, shape_.qkv()};
  Numbers mixed_{shape_.dtype, 1, shape_.heads* shape_.head_dim};
  Numbers up_{shape_.dtype, 1, shape_.gated ? 2 * shape_.ffn_width : shape_.ffn_width};
  Numbers activated_{shape_.dtype, 1, shape_.ffn_width};
};

class ChainTest : public testing::Test {
 protected:
  void SetUp() override { QUIRE_NEED_ACCELERATOR(); }

  static void check(const Shape& shape, int32_t context) {
    SCOPED_TRACE(describe(shape, context));
    Model model(shape, context);
    const Numbers expected = model.run(/*one_by_one=*/true);
    const std::vector<std::byte> pages(model.pages().begin(), model.pages().end());
    const Numbers got = model.run(/*one_by_one=*/false);
    // Sums are the same to the bit, but those of attention: these may fall on the other side of a rounding, which
    // every layer carries on.
    const double tolerance = 3 * rounding_of(shape.dtype) * shape.layers;
    for (int64_t i = 0; i < shape.width; ++i) {
      ASSERT_TRUE(near(got.get(0, i), expected.get(0, i), tolerance)) << "column " << i;
    }
    if (shape.layers == 1) {
      EXPECT_TRUE(pages == std::vector<std::byte>(model.pages().begin(), model.pages().end()));
    }
    // Whatever one run leaves behind the next one finds.
    for (int i = 0; i < 20; ++i) {
      model.reset();
      model.enqueue(/*one_by_one=*/false);
      if (i % 2 == 1) model.stream().synchronize();
    }
    model.stream().synchronize();
    EXPECT_TRUE(model.run(false).row_bits_equal(0, got, 0));
  }
};

TEST_F(ChainTest, layers_in_a_row_are_layers_one_by_one) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16}) {
    for (const int32_t context : {1, 2, 15, 16, 17, 130, 257, 2000}) check({.dtype = dtype}, context);
    check({.dtype = dtype, .heads = 4, .kv_heads = 4, .head_dim = 128}, 77);
    check({.dtype = dtype, .heads = 16, .kv_heads = 1, .head_dim = 128}, 300);
    check({.dtype = dtype, .layers = 1}, 40);
  }
}

TEST_F(ChainTest, long_contexts_are_shared_out) {
  check({.heads = 32, .kv_heads = 8, .head_dim = 128, .layers = 2}, 4096);
  check({.heads = 8, .kv_heads = 1, .head_dim = 64, .layers = 1}, 40'000);
  check({.heads = 40, .kv_heads = 40, .head_dim = 64, .layers = 1}, 9'001);
}

TEST_F(ChainTest, widths_that_fill_no_tile_and_no_stage) {
  check({.width = 64, .heads = 2, .kv_heads = 1, .ffn_width = 64}, 20);
  check({.width = 832, .heads = 2, .kv_heads = 1, .ffn_width = 1216}, 20);
  check({.width = 584, .heads = 3, .kv_heads = 3, .ffn_width = 72, .gated = false}, 20);
  check({.width = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .ffn_width = 14336, .layers = 2}, 200);
  check({.width = 16'384, .heads = 2, .kv_heads = 1, .ffn_width = 128, .layers = 1}, 9);
}

TEST_F(ChainTest, what_families_add) {
  check({.biases = true}, 33);
  check({.biases = true, .layer_norm = true, .interleaved = true}, 33);
  check({.gated = false, .biases = true}, 33);
  check({.sinks = true, .window = 100}, 33);
  check({.sinks = true, .window = 100}, 1000);
  check({.window = 7}, 1000);
  check({.block_size = 8}, 100);
  check({.block_size = 32}, 100);
  check({.block_size = 128}, 700);
}

TEST_F(ChainTest, more_layers_than_one_kernel_takes) {
  check({.width = 64, .heads = 1, .kv_heads = 1, .ffn_width = 64, .layers = 70}, 20);
}

TEST_F(ChainTest, what_reads_nothing_of_the_op_before) {
  // Blocks that are ahead must not overwrite what others still wait for.
  constexpr int64_t kWide = 2048, kNarrow = 1024;
  const auto stream = accelerator()->create_stream();
  const auto pack = [&](int64_t n, int64_t k, uint32_t seed) {
    Numbers weight = Numbers::random(DType::kBFloat16, n, k, seed, 0, 0.03f);
    PackedLinear packed = accelerator()->pack_linear({.parts = {weight.tensor()}, .dtype = DType::kBFloat16}, *stream);
    stream->synchronize();
    return packed;
  };
  const PackedLinear first = pack(kWide, kNarrow, 1), second = pack(kNarrow, kWide, 2);
  Numbers x = Numbers::random(DType::kBFloat16, 1, kNarrow, 3), middle(DType::kBFloat16, 1, kWide);
  Numbers out(DType::kFloat32, 1, kNarrow), again(DType::kFloat32, 1, kNarrow);
  const auto enqueue = [&](Numbers& to) {
    const Ops& ops = accelerator()->ops();
    ops.linear({.x = x.tensor(), .weight = &first, .bias = {}, .residual = {}, .out = middle.tensor()}, *stream);
    ops.linear({.x = middle.tensor(), .weight = &second, .bias = {}, .residual = {}, .out = to.tensor()}, *stream);
  };
  enqueue(out);
  stream->synchronize();
  for (int i = 0; i < 300; ++i) enqueue(again);
  stream->synchronize();
  EXPECT_TRUE(again.row_bits_equal(0, out, 0));
}

TEST_F(ChainTest, layers_are_one_kernel) {
  // On a GPU only its time shows it.
  void* const library = dlopen("libgpu_on_cpu.so", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) GTEST_SKIP() << "not a GPU on the CPU, whose launches are counted";
  const auto launches = reinterpret_cast<uint64_t (*)()>(dlsym(library, "gpu_on_cpu_launches"));
  Model model({}, 100);
  model.reset();
  const uint64_t before = launches();
  model.enqueue(false);
  model.stream().synchronize();
  EXPECT_EQ(launches() - before, 1u);
}

TEST_F(ChainTest, recorded) {
  Model model({}, 100);
  const Numbers expected = model.run(false);
  if (!accelerator()->records_graphs()) GTEST_SKIP() << "records no graphs";
  accelerator()->begin_recording(model.stream());
  model.enqueue(false);
  const auto graph = accelerator()->end_recording(model.stream());
  for (int i = 0; i < 50; ++i) {
    model.reset();
    graph->launch(model.stream());
    model.stream().synchronize();
    ASSERT_TRUE(model.hidden().row_bits_equal(0, expected, 0)) << i;
  }
}

}  // namespace
}  // namespace quire
