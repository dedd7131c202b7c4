#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "accelerators/accelerator.h"
#include "backend/ops.h"

namespace quire {
namespace {

using test::accelerator;
using test::Numbers;
using test::Shared;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int32_t heads = 8;
  int32_t kv_heads = 2;
  int32_t head_dim = 64;
  int32_t v_head_dim = 64;
  int32_t block_size = 16;
  DType dtype = DType::kBFloat16;  ///< of the cache
  DType q_dtype = DType::kBFloat16;
  int32_t window = 0;
  float softcap = 0.0f;
  bool alibi = false;
  bool sinks = false;
  bool values_in_keys = false;
};

Shape of_type(DType dtype, Shape shape = {}) {
  shape.dtype = shape.q_dtype = dtype;
  return shape;
}

std::string describe(const Shape& shape) {
  const auto text = [](auto value) { return std::to_string(value); };
  return text(shape.heads) + "/" + text(shape.kv_heads) + " heads, dims " + text(shape.head_dim) + " and " +
         text(shape.v_head_dim) + ", blocks of " + text(shape.block_size) + ", q " +
         std::string(dtype_name(shape.q_dtype)) + ", cache " + std::string(dtype_name(shape.dtype)) + ", window " +
         text(shape.window) + ", softcap " + text(shape.softcap) + ", alibi " + text(shape.alibi) + ", sinks " +
         text(shape.sinks);
}

/// One sequence of a step: keys in the cache at the end of the step, and how many of its last tokens are queries.
/// Context 0: a padding sequence.
struct Sequence {
  uint32_t seed = 0;  ///< its tokens' q, k and v are functions of seed and position
  int32_t context = 0;
  int32_t queries = 0;
};

/// In [-2, 2), steps of 1/1024.
float number_of(uint32_t seed, int32_t position, uint32_t kind, uint32_t index) {
  uint64_t x =
      (uint64_t{seed} << 32 | static_cast<uint32_t>(position)) * 0x9e3779b97f4a7c15u + kind * 0x632be59bd9b4e019u;
  x = (x ^ index) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 29) * 0x94d049bb133111ebu;
  return static_cast<float>(x >> 52) / 1024.0f - 2.0f;
}

float rounded(DType dtype, float value) {
  if (dtype == DType::kBFloat16) return to_float(to_bfloat16(value));
  return dtype == DType::kFloat16 ? to_float(to_float16(value)) : value;
}

/// A paged cache with the keys and values of some sequences, written by the backend's own kv_write, and one step's
/// queries. Blocks are handed out in random order; every slot that holds no token is NaN, and entries of block tables
/// that no key needs point far outside. `ahead`: tokens behind the context that are in the cache as well.
class PagedStep {
 public:
  PagedStep(Backend& backend, const Shape& shape, const std::vector<Sequence>& sequences, int32_t ahead = 0)
      : backend_(backend), stream_(backend.create_stream()), shape_(shape), sequences_(sequences), ahead_(ahead) {
    allocate_pages();
    for (size_t s = 0; s < sequences_.size(); ++s) write_sequence(s);
    for (int32_t h = 0; h < shape.heads; ++h) {
      slopes_.push_back(std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(shape.heads)));
      sinks_.push_back(static_cast<float>(h % 3) - 0.5f);
    }
    fill_batch();
  }

  Stream& stream() { return *stream_; }
  Numbers& queries() { return q_; }
  const Numbers& out() const { return out_; }
  int32_t first_row(size_t sequence) const { return query_start_[sequence]; }
  const std::vector<Sequence>& sequences() const { return sequences_; }

  void enqueue() {
    AttentionArgs args;
    args.q = q_.tensor().heads(shape_.heads, shape_.head_dim);
    args.kv = kv_;
    args.batch = &batch_;
    args.scale = scale();
    args.window = shape_.window;
    args.softcap = shape_.softcap;
    if (shape_.alibi) args.alibi_slopes = slopes_.data();
    if (shape_.sinks) args.sinks = sinks_.data();
    args.out = out_.tensor().heads(shape_.heads, shape_.v_head_dim);
    backend_.ops().attention(args, *stream_);
  }

  /// Run the op; [T, H * v_head_dim].
  const Numbers& attend() {
    enqueue();
    stream_->synchronize();
    EXPECT_TRUE(out_.gaps_untouched());
    return out_;
  }

  /// Every sequence has one more key; its queries are of the positions one further.
  void advance() {
    for (size_t s = 0; s < sequences_.size(); ++s) {
      if (sequences_[s].context > 0) contexts_[s] = ++sequences_[s].context;
    }
    fill_queries();
  }

  /// Other lengths, of keys that are in the cache; 0: a padding sequence. Queries are of the last positions.
  void set_contexts(const std::vector<int32_t>& contexts) {
    for (size_t s = 0; s < sequences_.size(); ++s) contexts_[s] = sequences_[s].context = contexts[s];
    fill_queries();
  }

  /// The definition, in double: [v_head_dim] of one query row and head.
  std::vector<double> expected(size_t s, int32_t position, int32_t head) const {
    const int32_t kv_head = head / (shape_.heads / shape_.kv_heads);
    std::vector<double> q, scores;
    for (int32_t i = 0; i < shape_.head_dim; ++i) q.push_back(q_number(s, position, head * shape_.head_dim + i));
    const int32_t first = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
    for (int32_t key = first; key <= position; ++key) {
      double score = 0.0;
      for (int32_t i = 0; i < shape_.head_dim; ++i) score += q[static_cast<size_t>(i)] * key_number(s, key, kv_head, i);
      score *= scale();
      if (shape_.softcap > 0.0f) score = shape_.softcap * std::tanh(score / shape_.softcap);
      if (shape_.alibi) score += double{slopes_[static_cast<size_t>(head)]} * (key - position);
      scores.push_back(score);
    }
    const double best = *std::max_element(scores.begin(), scores.end());
    double total = shape_.sinks ? std::exp(sinks_[static_cast<size_t>(head)] - best) : 0.0;
    for (double& score : scores) total += score = std::exp(score - best);
    std::vector<double> out(static_cast<size_t>(shape_.v_head_dim), 0.0);
    for (int32_t key = first; key <= position; ++key) {
      const double weight = scores[static_cast<size_t>(key - first)] / total;
      for (int32_t i = 0; i < shape_.v_head_dim; ++i) {
        out[static_cast<size_t>(i)] += weight * value_number(s, key, kv_head, i);
      }
    }
    return out;
  }

  const KvLayer& kv() const { return kv_; }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }

  // As they are in the cache, or in q.
  double q_number(size_t s, int32_t position, int32_t i) const {
    return rounded(shape_.q_dtype, number_of(sequences_[s].seed, position, 0, static_cast<uint32_t>(i)));
  }
  double key_number(size_t s, int32_t position, int32_t head, int32_t i) const {
    const auto index = static_cast<uint32_t>(head * shape_.head_dim + i);
    return rounded(shape_.dtype, rounded(shape_.q_dtype, number_of(sequences_[s].seed, position, 1, index)));
  }
  double value_number(size_t s, int32_t position, int32_t head, int32_t i) const {
    if (shape_.values_in_keys) return key_number(s, position, head, i);
    const auto index = static_cast<uint32_t>(head * shape_.v_head_dim + i);
    return rounded(shape_.dtype, rounded(shape_.q_dtype, number_of(sequences_[s].seed, position, 2, index)));
  }

  int32_t blocks_of(size_t s) const {
    const int32_t context = sequences_[s].context;
    return context == 0 ? 0 : (context + ahead_ + shape_.block_size - 1) / shape_.block_size;
  }

  void allocate_pages() {
    max_blocks_ = 1;
    int32_t blocks = 1;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      max_blocks_ = std::max(max_blocks_, blocks_of(s) + 1);
      blocks += blocks_of(s);
    }
    kv_ = {.dtype = shape_.dtype,
           .num_blocks = blocks,
           .block_size = shape_.block_size,
           .num_kv_heads = shape_.kv_heads,
           .head_dim = shape_.head_dim,
           .v_head_dim = shape_.v_head_dim,
           .values_in_keys = shape_.values_in_keys};
    kv_.block_bytes = backend_.kv_block_bytes(kv_);
    // All bits set is NaN in every type.
    const std::vector<std::byte> nothing(static_cast<size_t>(blocks * kv_.block_bytes), std::byte{0xff});
    pages_ = backend_.allocate(nothing.size(), MemoryKind::kKvCache);
    backend_.copy_to_device(pages_.data(), nothing.data(), nothing.size(), *stream_);
    kv_.data = pages_.data();

    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(99));
    constexpr int32_t kNowhere = 1 << 30;
    tables_.assign(sequences_.size() * static_cast<size_t>(max_blocks_), kNowhere);
    size_t next = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int32_t block = 0; block < blocks_of(s); ++block) table(s)[block] = order[next++];
    }
  }

  int32_t* table(size_t sequence) { return tables_.data() + sequence * static_cast<size_t>(max_blocks_); }

  void write_sequence(size_t s) {
    const Sequence& sequence = sequences_[s];
    if (sequence.context == 0) return;
    const int64_t count = sequence.context + ahead_;
    const int64_t k_columns = int64_t{shape_.kv_heads} * shape_.head_dim;
    const int64_t v_columns = int64_t{shape_.kv_heads} * shape_.v_head_dim;
    // Rows that begin at 16 bytes, and rows that do not.
    const int64_t gap = s % 2 == 0 ? 8 : 3;
    Numbers k(shape_.q_dtype, count + 1, k_columns, gap), v(shape_.q_dtype, count + 1, v_columns, gap);
    Shared<int64_t> slots;
    for (int32_t position = 0; position < count; ++position) {
      for (int64_t i = 0; i < k_columns; ++i)
        k.set(position, i, number_of(sequence.seed, position, 1, static_cast<uint32_t>(i)));
      for (int64_t i = 0; i < v_columns; ++i) {
        v.set(position, i, number_of(sequence.seed, position, shape_.values_in_keys ? 1 : 2, static_cast<uint32_t>(i)));
      }
      slots.push_back(int64_t{table(s)[position / shape_.block_size]} * shape_.block_size +
                      position % shape_.block_size);
    }
    slots.push_back(-1);  // goes nowhere
    backend_.ops().kv_write({.k = k.tensor().heads(shape_.kv_heads, shape_.head_dim),
                             .v = v.tensor().heads(shape_.kv_heads, shape_.v_head_dim),
                             .kv = kv_,
                             .slots = slots.data()},
                            *stream_);
    stream_->synchronize();
    // A scheduler may free blocks that no later query sees.
    if (shape_.window == 0) return;
    const int32_t first = sequence.context - sequence.queries - shape_.window + 1;
    for (int32_t block = 0; (block + 1) * shape_.block_size <= first; ++block) table(s)[block] = 1 << 30;
  }

  void fill_batch() {
    query_start_.push_back(0);
    for (const Sequence& sequence : sequences_) {
      query_start_.push_back(query_start_.back() + sequence.queries);
      contexts_.push_back(sequence.context);
      batch_.max_query_len = std::max(batch_.max_query_len, sequence.queries);
      batch_.num_single_queries += sequence.queries == 1;
      block_starts_.push_back(static_cast<int32_t>(block_starts_.size()) * max_blocks_);
    }
    const int32_t num_tokens = query_start_.back();
    q_ = Numbers(shape_.q_dtype, num_tokens, int64_t{shape_.heads} * shape_.head_dim, 8);
    out_ = Numbers(shape_.q_dtype, num_tokens, int64_t{shape_.heads} * shape_.v_head_dim, 8);
    fill_queries();
    batch_.num_tokens = num_tokens;
    batch_.num_sequences = static_cast<int32_t>(sequences_.size());
    batch_.query_start = query_start_.data();
    batch_.context_lens = contexts_.data();
    batch_.block_tables = tables_.data();
    batch_.block_starts = block_starts_.data();
  }

  void fill_queries() {
    int64_t row = 0;
    for (const Sequence& sequence : sequences_) {
      for (int32_t position = sequence.context - sequence.queries; position < sequence.context; ++position, ++row) {
        for (int64_t i = 0; i < q_.columns(); ++i) {
          q_.set(row, i, number_of(sequence.seed, position, 0, static_cast<uint32_t>(i)));
        }
      }
    }
  }

  Backend& backend_;
  std::unique_ptr<Stream> stream_;
  Shape shape_;
  std::vector<Sequence> sequences_;
  int32_t ahead_;
  KvLayer kv_;
  Buffer pages_;
  int32_t max_blocks_ = 1;
  Shared<int32_t> tables_, query_start_, contexts_, block_starts_;
  Numbers q_{DType::kFloat32, 0, 1}, out_{DType::kFloat32, 0, 1};
  RaggedBatch batch_;
  Shared<float> slopes_, sinks_;
};

/// Of weights that are rounded to the 16-bit type before they meet values of size 2, and of the result.
double tolerance_of(const Shape& shape) {
  if (shape.q_dtype == DType::kBFloat16) return 8e-3;
  return shape.q_dtype == DType::kFloat16 ? 1.5e-3 : 2e-5;
}

/// Compare some rows, the first and the last of every sequence among them, with the definition.
void expect_defined(const PagedStep& step, const Shape& shape) {
  for (size_t s = 0; s < step.sequences().size(); ++s) {
    const Sequence& sequence = step.sequences()[s];
    if (sequence.context == 0) continue;
    for (const int32_t query : {0, sequence.queries / 2, sequence.queries - 1}) {
      const int32_t position = sequence.context - sequence.queries + query;
      for (const int32_t head : {0, shape.heads / 2, shape.heads - 1}) {
        const std::vector<double> expected = step.expected(s, position, head);
        for (int32_t i = 0; i < shape.v_head_dim; ++i) {
          const float got = step.out().get(step.first_row(s) + query, int64_t{head} * shape.v_head_dim + i);
          ASSERT_TRUE(test::near(got, expected[static_cast<size_t>(i)], tolerance_of(shape)))
              << "sequence " << s << ", position " << position << ", head " << head << ", component " << i;
        }
      }
    }
  }
}

void expect_right(const Shape& shape, const std::vector<Sequence>& sequences, bool deterministic = false) {
  SCOPED_TRACE(describe(shape));
  PagedStep step(*accelerator(deterministic), shape, sequences);
  step.attend();
  expect_defined(step, shape);
}

const std::vector<Sequence> kMixedStep = {
    {.seed = 1, .context = 1, .queries = 1},   {.seed = 2, .context = 40, .queries = 40},
    {.seed = 3, .context = 300, .queries = 1}, {.seed = 4, .context = 530, .queries = 29},
    {.seed = 5, .context = 17, .queries = 2},
};

const std::vector<Sequence> kDecodeStep = {
    {.seed = 1, .context = 1, .queries = 1},   {.seed = 2, .context = 16, .queries = 1},
    {.seed = 3, .context = 700, .queries = 1}, {.seed = 4, .context = 129, .queries = 1},
    {.seed = 5, .context = 0, .queries = 1},
};

const std::vector<Sequence> kPrompt = {{.seed = 8, .context = 333, .queries = 333}};

const DType kTypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};

TEST(attention, every_width_gives_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kTypes) {
    for (const int32_t dim : {64, 80, 96, 112, 128, 160, 192, 256, 120, 8, 24, 33, 1, 260}) {
      Shape shape = of_type(dtype);
      shape.head_dim = shape.v_head_dim = dim;
      for (const auto& sequences : {kDecodeStep, kMixedStep, kPrompt}) expect_right(shape, sequences);
      if (testing::Test::HasFailure()) return;
    }
  }
}

TEST(attention, every_block_size_gives_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const int32_t block_size : {8, 16, 32, 64, 128, 12, 48}) {
    for (const int32_t dim : {128, 112, 64}) {
      Shape shape{.head_dim = dim, .v_head_dim = dim, .block_size = block_size};
      for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
      shape.window = 100;
      for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
    }
    Shape odd = of_type(DType::kFloat32, {.block_size = block_size});
    odd.v_head_dim = 48;
    expect_right(odd, kMixedStep);
  }
}

TEST(attention, every_pair_of_types_gives_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kTypes) {
    for (const DType q_dtype : kTypes) expect_right({.dtype = dtype, .q_dtype = q_dtype}, kMixedStep);
  }
}

TEST(attention, every_ratio_of_heads_gives_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const auto& [heads, kv_heads] : std::vector<std::pair<int32_t, int32_t>>{
           {1, 1}, {2, 2}, {4, 2}, {9, 3}, {8, 2}, {5, 1}, {6, 1}, {14, 2}, {8, 1}, {16, 1}, {20, 1}, {71, 1}}) {
    for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
      const Shape shape = of_type(dtype, {.heads = heads, .kv_heads = kv_heads});
      for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
    }
  }
}

TEST(attention, windows_softcap_alibi_and_sinks_give_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const int32_t window : {0, 1, 7, 16, 100, 256, 299, 5000}) {
      for (const int features : {0, 1, 2, 4, 7}) {
        Shape shape = of_type(dtype, {.window = window});
        shape.softcap = (features & 1) != 0 ? 1.5f : 0.0f;
        shape.alibi = (features & 2) != 0;
        shape.sinks = (features & 4) != 0;
        for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
        if (testing::Test::HasFailure()) return;
      }
    }
  }
}

TEST(attention, every_length_around_tiles_gives_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const int32_t context : {1, 2, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 256, 513, 1025, 2100}) {
      for (const int32_t queries : {1, 2, 6, 67}) {
        expect_right(of_type(dtype), {{.seed = 6, .context = context, .queries = std::min(queries, context)}});
      }
    }
  }
}

TEST(attention, long_contexts_give_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    Shape shape = of_type(dtype, {.heads = 4, .kv_heads = 1, .head_dim = 128, .v_head_dim = 128});
    expect_right(shape, {{.seed = 1, .context = 40000, .queries = 1}});
    expect_right(shape, {{.seed = 1, .context = 9000, .queries = 1},
                         {.seed = 2, .context = 3, .queries = 1},
                         {.seed = 3, .context = 12345, .queries = 70}});
  }
}

TEST(attention, many_sequences_and_padding_give_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const int32_t count : {2, 37, 300}) {
    std::vector<Sequence> sequences;
    for (int32_t s = 0; s < count; ++s) {
      sequences.push_back({.seed = static_cast<uint32_t>(s), .context = 1 + s * 37 % 211, .queries = 1});
    }
    for (int32_t s = 0; s < 3; ++s) sequences.push_back({.context = 0, .queries = 1});
    expect_right({.heads = 4, .kv_heads = 2}, sequences);
    expect_right({.heads = 4, .kv_heads = 2, .window = 50}, sequences);
    expect_right(of_type(DType::kFloat32, {.heads = 4, .kv_heads = 2}), sequences);
  }
}

/// Single queries of sequences with these many keys.
std::vector<Sequence> single_queries(const std::vector<int32_t>& contexts) {
  std::vector<Sequence> sequences;
  for (const int32_t context : contexts) {
    sequences.push_back({.seed = static_cast<uint32_t>(sequences.size()), .context = context, .queries = 1});
  }
  return sequences;
}

TEST(attention, single_queries_are_cut_anywhere) {
  QUIRE_NEED_ACCELERATOR();
  const Shape shape{.heads = 4, .kv_heads = 4, .block_size = 32};
  // Runs of warps and blocks that end where pairs do, a key beside it, and in the middle of pairs; fewer cells than
  // warps.
  for (const int32_t context : {16, 31, 32, 33, 200, 384, 385}) {
    for (const size_t count : {1u, 2u, 4u, 7u, 16u, 33u}) {
      expect_right(shape, single_queries(std::vector<int32_t>(count, context)));
    }
  }
  // One that several blocks share, more or less of which the first and the last of them have; before, between and
  // behind short ones.
  for (size_t at = 0; at <= 40; at += 2) {
    std::vector<int32_t> contexts(41, 40);
    contexts[at] = 3000;
    expect_right({.heads = 4, .kv_heads = 1, .block_size = 32}, single_queries(contexts));
    expect_right({.heads = 34, .kv_heads = 2, .block_size = 8, .window = 1000}, single_queries(contexts));
  }
  std::mt19937 random(3);
  for (int draw = 0; draw < 60; ++draw) {
    std::vector<int32_t> contexts(1 + random() % 30);
    for (int32_t& context : contexts) {
      const uint32_t most[] = {1, 17, 100, 400, 400, 2000};
      context = static_cast<int32_t>(random() % most[random() % std::size(most)]);
    }
    expect_right(shape, single_queries(contexts));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(attention, short_contexts_are_not_cut_where_there_are_many) {
  QUIRE_NEED_ACCELERATOR();
  // What is cut is summed up in another order, whose results differ here and there.
  const Shape shape{.heads = 8, .kv_heads = 8};
  PagedStep step(*accelerator(), shape, std::vector<Sequence>(397, {.seed = 1, .context = 45, .queries = 1}));
  const Numbers& out = step.attend();
  for (int64_t row = 1; row < out.rows(); ++row) ASSERT_TRUE(out.row_bits_equal(row, out, 0)) << row;
  expect_defined(step, shape);
}

TEST(attention, values_in_keys_give_the_defined_result) {
  QUIRE_NEED_ACCELERATOR();
  for (const DType dtype : kTypes) {
    Shape shape = of_type(dtype, {.heads = 16, .kv_heads = 1, .head_dim = 576, .v_head_dim = 512});
    shape.values_in_keys = true;
    for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
    for (const int32_t block_size : {8, 32}) {
      shape.block_size = block_size;
      shape.window = block_size == 8 ? 100 : 0;
      shape.heads = 20;
      for (const auto& sequences : {kDecodeStep, kMixedStep}) expect_right(shape, sequences);
      expect_right(shape, {{.seed = 3, .context = 5000, .queries = 1}, {.seed = 4, .context = 70, .queries = 1}});
    }
    shape.window = 0;
    shape.heads = 3;
    shape.head_dim = 40;
    shape.v_head_dim = 33;
    expect_right(shape, kMixedStep);
  }
}

TEST(attention, a_recorded_step_serves_later_ones) {
  QUIRE_NEED_ACCELERATOR();
  for (const bool deterministic : {false, true}) {
    for (const Shape& shape :
         {Shape{}, Shape{.heads = 4, .kv_heads = 1, .head_dim = 128, .v_head_dim = 128, .window = 60},
          of_type(DType::kFloat32)}) {
      SCOPED_TRACE(describe(shape));
      constexpr int32_t kSteps = 20;
      Backend& backend = *accelerator(deterministic);
      PagedStep step(backend, shape, kDecodeStep, kSteps);
      step.attend();  // once without, so that everything is loaded
      backend.begin_recording(step.stream());
      step.enqueue();
      const std::unique_ptr<Graph> graph = backend.end_recording(step.stream());
      for (int32_t i = 0; i < kSteps; ++i) {
        step.advance();
        graph->launch(step.stream());
        step.stream().synchronize();
        expect_defined(step, shape);
      }
    }
  }
}

TEST(attention, a_recorded_step_serves_other_lengths) {
  QUIRE_NEED_ACCELERATOR();
  const Shape shape{.heads = 4, .kv_heads = 2};
  Backend& backend = *accelerator();
  PagedStep step(backend, shape, single_queries(std::vector<int32_t>(24, 900)));
  step.attend();
  backend.begin_recording(step.stream());
  step.enqueue();
  const std::unique_ptr<Graph> graph = backend.end_recording(step.stream());
  std::mt19937 random(4);
  for (const uint32_t most : {900u, 5u, 300u, 1u, 100u, 900u}) {
    std::vector<int32_t> contexts;
    for (size_t s = 0; s < step.sequences().size(); ++s) contexts.push_back(static_cast<int32_t>(random() % most));
    step.set_contexts(contexts);
    graph->launch(step.stream());
    step.stream().synchronize();
    expect_defined(step, shape);
  }
}

// Exact equality from here on: a row's bits depend on its own sequence alone.

struct InvarianceCase {
  Shape shape;
  bool deterministic;
};

/// float32 always, 16-bit types in a deterministic backend.
std::vector<InvarianceCase> invariance_cases() {
  std::vector<InvarianceCase> cases;
  for (const DType dtype : kTypes) {
    for (const bool deterministic : {false, true}) {
      if (dtype != DType::kFloat32 && !deterministic) continue;
      for (const Shape& shape :
           {Shape{.heads = 9, .kv_heads = 3},
            Shape{.heads = 4, .kv_heads = 4, .head_dim = 80, .v_head_dim = 80, .window = 100},
            Shape{.heads = 8,
                  .kv_heads = 1,
                  .head_dim = 128,
                  .v_head_dim = 128,
                  .softcap = 2.0f,
                  .alibi = true,
                  .sinks = true},
            Shape{.heads = 2, .kv_heads = 1, .head_dim = 256, .v_head_dim = 256},
            Shape{.heads = 5, .kv_heads = 1, .head_dim = 576, .v_head_dim = 512, .values_in_keys = true},
            Shape{.heads = 3, .kv_heads = 1, .head_dim = 24, .v_head_dim = 40, .window = 300}}) {
        cases.push_back({of_type(dtype, shape), deterministic});
      }
    }
  }
  return cases;
}

void expect_same_rows(const Numbers& part, int64_t part_row, const Numbers& whole, int64_t position, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    ASSERT_TRUE(part.row_bits_equal(part_row + i, whole, position + i)) << "position " << position + i;
  }
}

TEST(attention, chunks_of_a_prompt_give_the_bits_of_the_whole) {
  QUIRE_NEED_ACCELERATOR();
  constexpr int32_t kLength = 1531;
  for (const auto& [shape, deterministic] : invariance_cases()) {
    SCOPED_TRACE(describe(shape));
    PagedStep whole(*accelerator(deterministic), shape, {{.seed = 11, .context = kLength, .queries = kLength}});
    whole.attend();
    for (const int32_t chunk : {1, 7, 64, 500}) {
      // Short chunks take many steps: only some of them.
      const int32_t step = std::max(chunk, 200);
      for (int32_t end = chunk;; end = std::min(end + step, kLength)) {
        const int32_t count = std::min(chunk, end);
        PagedStep part(*accelerator(deterministic), shape, {{.seed = 11, .context = end, .queries = count}});
        expect_same_rows(part.attend(), 0, whole.out(), end - count, count);
        if (end == kLength || testing::Test::HasFailure()) break;
      }
    }
  }
}

TEST(attention, neighbours_in_the_batch_change_no_bit) {
  QUIRE_NEED_ACCELERATOR();
  const std::vector<Sequence> sequences = {{.seed = 21, .context = 700, .queries = 1},
                                           {.seed = 22, .context = 90, .queries = 90},
                                           {.seed = 23, .context = 1, .queries = 1},
                                           {.seed = 24, .context = 300, .queries = 44},
                                           {.seed = 25, .context = 2513, .queries = 3}};
  for (const auto& [shape, deterministic] : invariance_cases()) {
    SCOPED_TRACE(describe(shape));
    PagedStep together(*accelerator(deterministic), shape, sequences);
    together.attend();
    for (size_t s = 0; s < sequences.size(); ++s) {
      PagedStep alone(*accelerator(deterministic), shape, {sequences[s]});
      expect_same_rows(alone.attend(), 0, together.out(), together.first_row(s), sequences[s].queries);
    }
  }
}

TEST(attention, a_query_that_is_not_a_number_spoils_its_own_row_only) {
  QUIRE_NEED_ACCELERATOR();
  const std::vector<Sequence> sequences = {{.seed = 51, .context = 400, .queries = 100},
                                           {.seed = 52, .context = 50, .queries = 1}};
  for (const auto& [shape, deterministic] : invariance_cases()) {
    SCOPED_TRACE(describe(shape));
    PagedStep expected(*accelerator(deterministic), shape, sequences);
    expected.attend();
    PagedStep step(*accelerator(deterministic), shape, sequences);
    constexpr int64_t kSpoiled = 40;
    step.queries().set(kSpoiled, 3, kNan);
    const Numbers& got = step.attend();
    for (int64_t row = 0; row < got.rows(); ++row) {
      EXPECT_EQ(got.row_bits_equal(row, expected.out(), row), row != kSpoiled) << row;
    }
    EXPECT_TRUE(std::isnan(got.get(kSpoiled, 0)));
  }
}

}  // namespace
}  // namespace quire
