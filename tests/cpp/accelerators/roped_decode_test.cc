#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "accelerators/accelerator.h"
#include "backend/ops.h"

/// rope_kv_write with attention behind it, which a backend may do in one kernel, against the two with something between
/// them. To the bit: results, and all of the cache.
namespace quire {
namespace {

using test::accelerator;
using test::Numbers;
using test::Shared;

struct Shape {
  DType dtype = DType::kBFloat16;
  int32_t heads = 8, kv_heads = 2;
  int32_t head_dim = 64;
  int32_t turned = 64;  ///< components of a head
  bool interleaved = false;
  int32_t block_size = 16;
  int64_t row_gap = 0;
  int32_t window = 0;
  float softcap = 0.0f;
  bool alibi = false;
  bool sinks = false;
};

std::string describe(const Shape& s) {
  return std::string(dtype_name(s.dtype)) + ", heads " + std::to_string(s.heads) + "/" + std::to_string(s.kv_heads) +
         ", dim " + std::to_string(s.head_dim) + ", turned " + std::to_string(s.turned) +
         (s.interleaved ? " interleaved" : "") + ", blocks of " + std::to_string(s.block_size) + ", gap " +
         std::to_string(s.row_gap) + ", window " + std::to_string(s.window) + ", softcap " + std::to_string(s.softcap) +
         (s.alibi ? ", alibi" : "") + (s.sinks ? ", sinks" : "");
}

/// A step in which every sequence has one token. `contexts`: keys of each with that one; 0: a padding sequence. Blocks
/// are handed out in random order; slots without a token are NaN, and entries of block tables that no key needs point
/// far outside.
class Step {
 public:
  Step(Backend& backend, const Shape& shape, std::vector<int32_t> contexts)
      : backend_(backend), stream_(backend.create_stream()), shape_(shape) {
    for (const int32_t context : contexts) contexts_.push_back(context);
    make_batch();
    make_cache();
    set_tokens(1);
  }

  void rope() { backend_.ops().rope_kv_write(rope_args(), *stream_); }
  RopeKvWriteArgs rope_args() {
    RopeKvWriteArgs args;
    args.q = heads_of(qkv_, 0, shape_.heads);
    args.rope.rows = rope_rows_.data();
    args.rope.cos = cos_.tensor();
    args.rope.sin = sin_.tensor();
    args.rope.layout = shape_.interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalf;
    args.kv = {.k = heads_of(qkv_, shape_.heads, shape_.kv_heads),
               .v = heads_of(qkv_, shape_.heads + shape_.kv_heads, shape_.kv_heads),
               .kv = kv_,
               .slots = slots_.data()};
    return args;
  }

  void attention() { backend_.ops().attention(attention_args(), *stream_); }
  AttentionArgs attention_args() {
    AttentionArgs args;
    args.q = heads_of(qkv_, 0, shape_.heads);
    args.kv = kv_;
    args.batch = &batch_;
    args.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    args.window = shape_.window;
    args.softcap = shape_.softcap;
    if (shape_.alibi) args.alibi_slopes = slopes_.data();
    if (shape_.sinks) args.sinks = sinks_.data();
    args.out = heads_of(out_, 0, shape_.heads);
    return args;
  }

  /// The cache before the step, and the step's tokens. All stays where it is: a recorded step may be behind it.
  void reset() {
    std::copy(cache_.begin(), cache_.end(), pages_.begin());
    qkv_ = tokens_;
    const Numbers nothing(shape_.dtype, rows(), int64_t{shape_.heads} * shape_.head_dim, 8);
    out_ = nothing;
  }

  /// Other tokens, into the memory of those before.
  void set_tokens(uint32_t seed) {
    tokens_ = Numbers::random(shape_.dtype, rows(), qkv_columns(), seed, shape_.row_gap);
    if (qkv_.rows() == 0) qkv_ = tokens_;
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t i = 0; i < qkv_columns(); ++i) qkv_.set(row, i, tokens_.get(row, i));
    }
  }

  /// Other lengths, none greater than the first.
  void set_contexts(const std::vector<int32_t>& contexts) {
    for (size_t s = 0; s < contexts.size(); ++s) {
      contexts_[s] = contexts[s];
      place_token(s);
    }
  }

  /// What is left of a step.
  struct Result {
    Numbers out;
    std::vector<std::byte> pages;
  };
  Result result() {
    stream_->synchronize();
    EXPECT_TRUE(out_.gaps_untouched());
    EXPECT_TRUE(qkv_.gaps_untouched());
    return {out_, {pages_.begin(), pages_.end()}};
  }

  Result run(const std::function<void()>& between) {
    reset();
    rope();
    between();
    attention();
    return result();
  }
  Result one_by_one() {
    return run([this] { stream_->synchronize(); });
  }

  void expect_same(const Result& got, const Result& expected) const {
    EXPECT_TRUE(got.pages == expected.pages);
    for (int64_t row = 0; row < rows(); ++row) {
      if (contexts_[static_cast<size_t>(row)] == 0) continue;
      EXPECT_TRUE(got.out.row_bits_equal(row, expected.out, row)) << "row " << row;
    }
  }

  /// The op by itself turns q where it is; attention that does both leaves it alone.
  bool q_is_turned() const {
    const int64_t q_columns = int64_t{shape_.heads} * shape_.head_dim;
    for (int64_t row = 0; row < rows(); ++row) {
      for (int64_t i = 0; i < q_columns; ++i) {
        if (qkv_.get(row, i) != tokens_.get(row, i)) return true;
      }
    }
    return false;
  }

  Backend& backend() { return backend_; }
  Stream& stream() { return *stream_; }
  RaggedBatch& batch() { return batch_; }
  Numbers& qkv() { return qkv_; }
  int64_t rows() const { return static_cast<int64_t>(contexts_.size()); }
  Tensor heads_of(Numbers& numbers, int64_t first, int64_t heads) const {
    return numbers.tensor().columns(first * shape_.head_dim, heads * shape_.head_dim).heads(heads, shape_.head_dim);
  }

 private:
  int64_t qkv_columns() const { return int64_t{shape_.heads + 2 * shape_.kv_heads} * shape_.head_dim; }
  int32_t blocks_of(size_t s) const { return (contexts_[s] + shape_.block_size - 1) / shape_.block_size; }

  void make_batch() {
    for (size_t s = 0; s < contexts_.size(); ++s) num_blocks_ += blocks_of(s);
    std::vector<int32_t> order(static_cast<size_t>(num_blocks_));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    size_t next = 0;
    int32_t longest = 1;
    for (size_t s = 0; s < contexts_.size(); ++s) {
      longest = std::max(longest, contexts_[s]);
      starts_.push_back(static_cast<int32_t>(tables_.size()));
      for (int32_t i = 0; i < blocks_of(s); ++i) tables_.push_back(order[next++]);
      query_start_.push_back(static_cast<int32_t>(s));
      rope_rows_.push_back(0);
      slots_.push_back(-1);
      place_token(s);
    }
    tables_.push_back(1 << 30);
    query_start_.push_back(static_cast<int32_t>(rows()));
    batch_ = {.num_tokens = static_cast<int32_t>(rows()),
              .num_sequences = static_cast<int32_t>(rows()),
              .rope_rows = rope_rows_.data(),
              .slots = slots_.data(),
              .query_start = query_start_.data(),
              .context_lens = contexts_.data(),
              .block_tables = tables_.data(),
              .block_starts = starts_.data(),
              .max_query_len = 1,
              .num_single_queries = static_cast<int32_t>(rows())};
    cos_ = Numbers::random(DType::kFloat32, longest, shape_.turned / 2, 11);
    sin_ = Numbers::random(DType::kFloat32, longest, shape_.turned / 2, 12);
    for (int32_t h = 0; h < shape_.heads; ++h) {
      slopes_.push_back(std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(shape_.heads)));
      sinks_.push_back(static_cast<float>(h % 3) - 0.5f);
    }
  }

  void place_token(size_t s) {
    const int32_t position = contexts_[s] - 1;
    rope_rows_[s] = std::max(position, 0);
    slots_[s] = position < 0 ? -1 : slot_of(s, position);
  }

  int64_t slot_of(size_t s, int32_t position) const {
    return int64_t{tables_[static_cast<size_t>(starts_[s] + position / shape_.block_size)]} * shape_.block_size +
           position % shape_.block_size;
  }

  void make_cache() {
    kv_ = {.dtype = shape_.dtype,
           .num_blocks = std::max(num_blocks_, 1),
           .block_size = shape_.block_size,
           .num_kv_heads = shape_.kv_heads,
           .head_dim = shape_.head_dim,
           .v_head_dim = shape_.head_dim};
    kv_.block_bytes = backend_.kv_block_bytes(kv_);
    // All bits set is NaN in every type.
    pages_.assign(static_cast<size_t>(kv_.num_blocks * kv_.block_bytes), std::byte{0xff});
    kv_.data = pages_.data();
    for (size_t s = 0; s < contexts_.size(); ++s) {
      const int32_t before = contexts_[s] - 1, columns = shape_.kv_heads * shape_.head_dim;
      if (before <= 0) continue;
      Numbers k = Numbers::random(shape_.dtype, before, columns, static_cast<uint32_t>(100 + s));
      Numbers v = Numbers::random(shape_.dtype, before, columns, static_cast<uint32_t>(200 + s));
      Shared<int64_t> slots;
      for (int32_t position = 0; position < before; ++position) slots.push_back(slot_of(s, position));
      backend_.ops().kv_write({.k = k.tensor().heads(shape_.kv_heads, shape_.head_dim),
                               .v = v.tensor().heads(shape_.kv_heads, shape_.head_dim),
                               .kv = kv_,
                               .slots = slots.data()},
                              *stream_);
      stream_->synchronize();
    }
    cache_.assign(pages_.begin(), pages_.end());
  }

  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  Shape shape_;
  Shared<int32_t> contexts_, tables_, starts_, query_start_, rope_rows_;
  Shared<int64_t> slots_;
  int32_t num_blocks_ = 0;
  RaggedBatch batch_;
  KvLayer kv_;
  Shared<std::byte> pages_;
  std::vector<std::byte> cache_;
  Numbers cos_{DType::kFloat32, 1, 1}, sin_{DType::kFloat32, 1, 1};
  Numbers qkv_{DType::kFloat32, 0, 1}, tokens_{DType::kFloat32, 0, 1}, out_{DType::kFloat32, 0, 1};
  Shared<float> slopes_, sinks_;
};

class RopedDecode : public testing::Test {
 protected:
  void SetUp() override { QUIRE_NEED_ACCELERATOR(); }

  /// Whether both are one kernel where shapes are common ones: for NVIDIA, from compute capability 8.0 on.
  static bool has_kernel() {
    return test::accelerator_kind() == "cuda" && accelerator()->name().find("sm_7") == std::string::npos;
  }

  static void check(const Shape& shape, const std::vector<int32_t>& contexts, bool fits = true) {
    SCOPED_TRACE(describe(shape));
    Step step(*accelerator(), shape, contexts);
    const Step::Result expected = step.one_by_one();
    EXPECT_TRUE(step.q_is_turned());
    const Step::Result got = step.run([] {});
    step.expect_same(got, expected);
    EXPECT_EQ(step.q_is_turned(), !(fits && has_kernel()));
  }
};

/// Some fill cells of 16 keys, some do not; a token is alone in its block; one sequence is padding.
const std::vector<int32_t> kContexts = {1, 16, 17, 130, 0, 33, 2, 15};

TEST_F(RopedDecode, widths_and_layouts) {
  for (const int32_t dim : {64, 80, 96, 112, 128, 160, 192, 256}) {
    for (const bool interleaved : {false, true}) {
      check({.head_dim = dim, .turned = dim, .interleaved = interleaved}, kContexts);
      check({.dtype = DType::kFloat16, .head_dim = dim, .turned = dim / 32 * 16, .interleaved = interleaved},
            kContexts);
      check({.head_dim = dim, .turned = 16, .interleaved = interleaved}, {40, 3});
    }
  }
}

TEST_F(RopedDecode, ratios_of_heads) {
  for (const auto& [heads, kv_heads] :
       std::vector<std::pair<int32_t, int32_t>>{{1, 1}, {4, 4}, {9, 3}, {14, 2}, {8, 1}, {16, 1}, {20, 1}, {71, 1}}) {
    check({.heads = heads, .kv_heads = kv_heads}, kContexts);
    check({.heads = heads, .kv_heads = kv_heads, .head_dim = 128, .turned = 64}, {21, 300});
  }
}

TEST_F(RopedDecode, blocks_and_rows) {
  for (const int32_t block_size : {8, 16, 32, 128, 48}) {
    check({.block_size = block_size}, kContexts);
    check({.head_dim = 112, .turned = 112, .block_size = block_size, .row_gap = 8}, kContexts);
  }
}

TEST_F(RopedDecode, windows_softcap_alibi_and_sinks) {
  for (const int32_t window : {0, 1, 7, 16, 100}) {
    check({.window = window}, kContexts);
    check({.window = window, .softcap = 1.5f, .alibi = true, .sinks = true}, kContexts);
  }
}

TEST_F(RopedDecode, lengths) {
  for (const int32_t context : {1, 2, 15, 16, 17, 32, 49, 385, 1024, 3000}) check({.kv_heads = 1}, {context});
  check({.head_dim = 128, .turned = 128}, {1500, 1, 700, 16});
  std::vector<int32_t> many;
  for (int32_t s = 0; s < 90; ++s) many.push_back(s % 11 == 7 ? 0 : 1 + s * 37 % 70);
  check({.heads = 4}, many);
}

TEST_F(RopedDecode, keys_of_one_sequence_are_cut) {
  check({.head_dim = 128, .turned = 128}, {7000, 20});
}

TEST_F(RopedDecode, pairs_of_many_lengths) {
  for (const int32_t context : {16, 33, 200, 385}) {
    for (const size_t count : {3u, 16u, 40u}) check({.kv_heads = 4}, std::vector<int32_t>(count, context));
  }
  // Of other sequences, with other angles, from pair to pair.
  for (const int32_t block_size : {8, 32}) {
    std::vector<int32_t> contexts;
    for (int32_t s = 0; s < 150; ++s) contexts.push_back(s % 9 == 4 ? 0 : 1 + s * 37 % 45);
    contexts[75] = 3000;
    check({.kv_heads = 1, .block_size = block_size}, contexts);
    check({.heads = 20, .kv_heads = 1, .head_dim = 128, .turned = 64, .block_size = block_size}, contexts);
  }
}

TEST_F(RopedDecode, what_does_not_fit_runs_one_by_one) {
  check({.dtype = DType::kFloat32}, kContexts, /*fits=*/false);
  check({.head_dim = 120, .turned = 120}, kContexts, /*fits=*/false);
  check({.head_dim = 80, .turned = 20}, kContexts, /*fits=*/false);
  check({.row_gap = 3}, kContexts, /*fits=*/false);
}

TEST_F(RopedDecode, what_comes_between_sees_what_the_op_leaves) {
  Step step(*accelerator(), {}, kContexts);
  const Step::Result expected = step.one_by_one();
  Numbers normed(DType::kFloat32, 1, 64), weight = Numbers::random(DType::kFloat32, 1, 64, 9);
  const auto event = step.backend().create_event();
  const std::vector<std::function<void()>> between = {
      [&] {
        step.backend().ops().norm({.kind = NormKind::kRms,
                                   .eps = 1e-5f,
                                   .x = weight.tensor(),
                                   .weight = weight.vector(),
                                   .bias = {},
                                   .out = normed.tensor()},
                                  step.stream());
      },
      [&] { event->record(step.stream()); },
      [&] { step.backend().ops().kv_write(step.rope_args().kv, step.stream()); },
  };
  for (const auto& work : between) {
    step.expect_same(step.run(work), expected);
    EXPECT_TRUE(step.q_is_turned());
  }

  // Twice the op itself, the second time of what is turned already.
  const auto twice = [&](bool wait) {
    return step.run([&] {
      if (wait) step.stream().synchronize();
      step.rope();
      if (wait) step.stream().synchronize();
    });
  };
  const Step::Result turned_twice = twice(true);
  step.expect_same(twice(false), turned_twice);

  // Nothing behind it at all.
  step.reset();
  step.rope();
  step.stream().synchronize();
  EXPECT_TRUE(step.q_is_turned());
}

TEST_F(RopedDecode, attention_over_something_else_is_not_taken) {
  Step step(*accelerator(), {}, kContexts);
  const Step::Result expected = step.one_by_one();
  Numbers copy = Numbers::random(DType::kBFloat16, step.rows(), 8 * 64, 3);
  step.reset();
  step.rope();
  AttentionArgs args = step.attention_args();
  args.q = step.heads_of(copy, 0, 8);
  step.backend().ops().attention(args, step.stream());
  step.attention();
  step.expect_same(step.result(), expected);
  EXPECT_TRUE(step.q_is_turned());

  // A batch of fewer tokens than have been turned.
  step.reset();
  step.rope();
  RaggedBatch first = step.batch();
  first.num_tokens = first.num_sequences = first.num_single_queries = 2;
  args = step.attention_args();
  args.batch = &first;
  args.q = args.q.rows(0, 2);
  args.out = args.out.rows(0, 2);
  step.backend().ops().attention(args, step.stream());
  step.attention();
  step.expect_same(step.result(), expected);
  EXPECT_TRUE(step.q_is_turned());
}

TEST_F(RopedDecode, products_around_a_single_token) {
  // What a backend keeps back of one token's ops, and then runs one by one.
  Step step(*accelerator(), {}, {70});
  Backend& backend = step.backend();
  const auto pack = [&](int64_t n, int64_t k) {
    Numbers numbers = Numbers::random(DType::kBFloat16, n, k, 31, 0, 1.0f / std::sqrt(static_cast<float>(k)));
    PackedLinear packed = backend.pack_linear({.parts = {numbers.tensor()}, .dtype = DType::kBFloat16}, step.stream());
    step.stream().synchronize();
    return packed;
  };
  const int64_t q_columns = 8 * 64;
  const PackedLinear before = pack(step.qkv().columns(), 256), behind = pack(128, q_columns);
  Numbers x = Numbers::random(DType::kBFloat16, 1, 256, 32);
  Numbers of_q(DType::kBFloat16, 1, 128);
  const auto multiply = [&](Tensor in, const PackedLinear& weight, Tensor out) {
    backend.ops().linear({.x = in, .weight = &weight, .bias = {}, .residual = {}, .out = out}, step.stream());
  };
  const auto run = [&](bool wait, bool read_q) {
    step.reset();
    multiply(x.tensor(), before, step.qkv().tensor());
    step.stream().synchronize();
    const Numbers made = step.qkv();
    step.reset();
    multiply(x.tensor(), before, step.qkv().tensor());
    if (wait) step.stream().synchronize();
    step.rope();
    if (wait) step.stream().synchronize();
    if (read_q) multiply(step.qkv().tensor().columns(0, q_columns), behind, of_q.tensor());
    step.attention();
    const Step::Result result = step.result();
    EXPECT_EQ(step.qkv().row_bits_equal(0, made, 0), !wait && !read_q && has_kernel());
    return result;
  };
  const Step::Result expected = run(/*wait=*/true, /*read_q=*/true);
  const Numbers expected_of_q = of_q;
  of_q.set(0, 0, 1000.0f);
  step.expect_same(run(/*wait=*/false, /*read_q=*/true), expected);
  EXPECT_TRUE(of_q.row_bits_equal(0, expected_of_q, 0));
  step.expect_same(run(/*wait=*/false, /*read_q=*/false), expected);
}

TEST_F(RopedDecode, a_recorded_step_serves_later_ones) {
  for (const Shape& shape : {Shape{}, Shape{.head_dim = 128, .turned = 64, .interleaved = true, .window = 20}}) {
    Step step(*accelerator(), shape, kContexts);
    step.run([] {});  // once without, so that everything is loaded
    step.backend().begin_recording(step.stream());
    step.rope();
    step.attention();
    const std::unique_ptr<Graph> graph = step.backend().end_recording(step.stream());
    step.backend().begin_recording(step.stream());
    step.rope();
    const std::unique_ptr<Graph> rope_alone = step.backend().end_recording(step.stream());
    for (uint32_t seed = 1; seed < 5; ++seed) {
      SCOPED_TRACE(seed);
      step.set_tokens(seed);
      graph->launch(step.stream());
      const Step::Result got = step.result();
      EXPECT_EQ(step.q_is_turned(), !has_kernel());
      step.set_tokens(seed);
      rope_alone->launch(step.stream());
      step.attention();
      step.expect_same(step.result(), got);
      EXPECT_TRUE(step.q_is_turned());
    }
  }
}

TEST_F(RopedDecode, a_recorded_step_serves_other_lengths) {
  const std::vector<int32_t> longest(24, 500);
  Step step(*accelerator(), {}, longest);
  step.run([] {});
  step.backend().begin_recording(step.stream());
  step.rope();
  step.attention();
  const std::unique_ptr<Graph> graph = step.backend().end_recording(step.stream());
  std::mt19937 random(6);
  for (const uint32_t most : {500u, 5u, 200u, 1u, 60u, 500u}) {
    SCOPED_TRACE(most);
    std::vector<int32_t> contexts;
    for (size_t s = 0; s < longest.size(); ++s) contexts.push_back(static_cast<int32_t>(random() % most));
    step.set_contexts(contexts);
    const Step::Result expected = step.one_by_one();
    step.reset();
    graph->launch(step.stream());
    step.expect_same(step.result(), expected);
    EXPECT_EQ(step.q_is_turned(), !has_kernel());
  }
}

TEST_F(RopedDecode, deterministic_backends_have_no_such_kernel) {
  Step step(*accelerator(/*deterministic=*/true), {}, kContexts);
  const Step::Result expected = step.one_by_one();
  step.expect_same(step.run([] {}), expected);
  EXPECT_TRUE(step.q_is_turned());
}

}  // namespace
}  // namespace quire
