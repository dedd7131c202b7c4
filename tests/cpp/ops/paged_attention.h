#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "backend/ops/attention.h"
#include "backend/ops/kv_write.h"
#include "ops/op_machine.h"

namespace quire::test {

/// The shape of one attention problem.
struct AttentionShape {
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 64;
  int32_t v_head_dim = 64;
  int32_t block_size = 16;
  DType dtype = DType::kFloat32;
  int32_t window = 0;
  float softcap = 0.0f;
  bool alibi = false;
  bool sinks = false;
};

/// One sequence of a step: keys in the cache at the end of the step, and how many of its last tokens are queries.
struct StepSequence {
  uint32_t seed = 0;  ///< names the sequence: its tokens' q, k and v are functions of seed and position
  int32_t context = 0;
  int32_t queries = 0;
};

/// Row `position` of a sequence's q, k or v ("kind"), [heads * dim].
inline std::vector<float> token_row(uint32_t seed, int32_t position, uint32_t kind, int64_t size) {
  std::minstd_rand generator(seed * 7919u + static_cast<uint32_t>(position) * 31u + kind * 104729u + 1u);
  generator.discard(3);
  std::vector<float> row(static_cast<size_t>(size));
  for (float& value : row) value = static_cast<float>(generator() % 4096) / 1024.0f - 2.0f;
  return row;
}

inline float round_to(DType dtype, float value) {
  if (dtype == DType::kBFloat16) return to_float(to_bfloat16(value));
  return dtype == DType::kFloat16 ? to_float(to_float16(value)) : value;
}

/// A paged cache with the keys and values of some sequences, written by the machine's own kv_write, and one step's
/// queries. Blocks are handed out in random order; every slot that holds no token is NaN, and entries of block tables
/// that no key needs point far outside.
class PagedStep {
 public:
  PagedStep(OpMachine& machine, const AttentionShape& shape, const std::vector<StepSequence>& sequences)
      : machine_(machine), shape_(shape), sequences_(sequences) {
    allocate_pages();
    for (size_t s = 0; s < sequences.size(); ++s) write_sequence(s);
    fill_batch();
    for (int32_t h = 0; h < shape.heads; ++h) {
      slopes_.push_back(std::exp2(-8.0f * static_cast<float>(h + 1) / static_cast<float>(shape.heads)));
      sinks_.push_back(static_cast<float>(h % 3) - 0.5f);
    }
  }

  int32_t num_tokens() const { return query_start_.back(); }

  /// [T, H, K]
  Floats& queries() { return q_; }

  /// Run the op; [T, H, v_head_dim].
  Floats attend() {
    Floats out({num_tokens(), shape_.heads, shape_.v_head_dim}, 5);
    AttentionArgs args;
    args.q = q_.tensor();
    args.kv = kv_;
    args.batch = &batch_;
    args.scale = scale();
    args.window = shape_.window;
    args.softcap = shape_.softcap;
    if (shape_.alibi) args.alibi_slopes = slopes_.data();
    if (shape_.sinks) args.sinks = sinks_.data();
    args.out = out.tensor();
    machine_.run(&Ops::attention, args);
    EXPECT_TRUE(out.gaps_untouched());
    return out;
  }

  /// The definition, in double, from the tokens themselves: [v_head_dim] of one query row and head.
  std::vector<double> expected(size_t sequence, int32_t position, int32_t head) const {
    const StepSequence& owner = sequences_[sequence];
    const int32_t kv_head = head / (shape_.heads / shape_.kv_heads);
    const std::vector<float> q = token_row(owner.seed, position, 0, int64_t{shape_.heads} * shape_.head_dim);
    std::vector<double> scores;
    const int32_t first = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0;
    for (int32_t key = first; key <= position; ++key) {
      const std::vector<float> k = token_row(owner.seed, key, 1, int64_t{shape_.kv_heads} * shape_.head_dim);
      double score = 0.0;
      for (int32_t i = 0; i < shape_.head_dim; ++i) {
        score += double{q[static_cast<size_t>(head * shape_.head_dim + i)]} *
                 round_to(shape_.dtype, k[static_cast<size_t>(kv_head * shape_.head_dim + i)]);
      }
      score *= scale();
      if (shape_.softcap > 0.0f) score = shape_.softcap * std::tanh(score / shape_.softcap);
      if (shape_.alibi) score += double{slopes_[static_cast<size_t>(head)]} * (key - position);
      scores.push_back(score);
    }
    double best = *std::max_element(scores.begin(), scores.end());
    double total = shape_.sinks ? std::exp(sinks_[static_cast<size_t>(head)] - best) : 0.0;
    for (double& score : scores) total += score = std::exp(score - best);
    std::vector<double> out(static_cast<size_t>(shape_.v_head_dim), 0.0);
    for (int32_t key = first; key <= position; ++key) {
      const std::vector<float> v = token_row(owner.seed, key, 2, int64_t{shape_.kv_heads} * shape_.v_head_dim);
      for (int32_t i = 0; i < shape_.v_head_dim; ++i) {
        out[static_cast<size_t>(i)] += scores[static_cast<size_t>(key - first)] / total *
                                       round_to(shape_.dtype, v[static_cast<size_t>(kv_head * shape_.v_head_dim + i)]);
      }
    }
    return out;
  }

  /// First row of a sequence's queries in T.
  int32_t first_row(size_t sequence) const { return query_start_[sequence]; }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim)); }

  void allocate_pages() {
    max_blocks_ = 1;
    int32_t blocks = 0;
    for (const StepSequence& sequence : sequences_) {
      const int32_t needed = (sequence.context + shape_.block_size - 1) / shape_.block_size;
      max_blocks_ = std::max(max_blocks_, needed + 1);
      blocks += needed;
    }
    kv_.dtype = shape_.dtype;
    kv_.num_blocks = blocks;
    kv_.block_size = shape_.block_size;
    kv_.num_kv_heads = shape_.kv_heads;
    kv_.head_dim = shape_.head_dim;
    kv_.v_head_dim = shape_.v_head_dim;
    kv_.block_bytes = machine_.backend->kv_block_bytes(kv_);
    // All bits set is NaN in every type.
    pages_.assign(static_cast<size_t>(blocks * kv_.block_bytes), std::byte{0xff});
    kv_.data = pages_.data();

    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), std::mt19937(99));
    constexpr int32_t kNowhere = 1 << 30;
    tables_.assign(sequences_.size() * static_cast<size_t>(max_blocks_), kNowhere);
    size_t next = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      for (int32_t block = 0; block * shape_.block_size < sequences_[s].context; ++block) {
        table(s)[block] = order[next++];
      }
    }
  }

  int32_t* table(size_t sequence) { return tables_.data() + sequence * static_cast<size_t>(max_blocks_); }

  void write_sequence(size_t s) {
    const StepSequence& sequence = sequences_[s];
    const int64_t count = sequence.context;
    Floats k({count, shape_.kv_heads, shape_.head_dim}, 3);
    Floats v({count, shape_.kv_heads, shape_.v_head_dim}, 1);
    OpVector<int64_t> slots;
    for (int32_t position = 0; position < sequence.context; ++position) {
      fill(k, position, token_row(sequence.seed, position, 1, k.row_size()));
      fill(v, position, token_row(sequence.seed, position, 2, v.row_size()));
      slots.push_back(int64_t{table(s)[position / shape_.block_size]} * shape_.block_size +
                      position % shape_.block_size);
    }
    KvWriteArgs args{.k = k.tensor(), .v = v.tensor(), .kv = kv_, .slots = slots.data()};
    machine_.run(&Ops::kv_write, args);
    forget_blocks_below_window(s);
  }

  /// A scheduler may free blocks that no later query sees.
  void forget_blocks_below_window(size_t s) {
    if (shape_.window == 0) return;
    const int32_t first = sequences_[s].context - sequences_[s].queries - shape_.window + 1;
    for (int32_t block = 0; (block + 1) * shape_.block_size <= first; ++block) table(s)[block] = 1 << 30;
  }

  static void fill(Floats& tensor, int64_t row, const std::vector<float>& values) {
    for (size_t i = 0; i < values.size(); ++i) tensor.at(row, static_cast<int64_t>(i)) = values[i];
  }

  void fill_batch() {
    query_start_.push_back(0);
    for (const StepSequence& sequence : sequences_) {
      query_start_.push_back(query_start_.back() + sequence.queries);
      contexts_.push_back(sequence.context);
    }
    q_ = Floats({num_tokens(), shape_.heads, shape_.head_dim}, 7);
    int64_t row = 0;
    for (const StepSequence& sequence : sequences_) {
      for (int32_t position = sequence.context - sequence.queries; position < sequence.context; ++position) {
        positions_.push_back(position);
        fill(q_, row++, token_row(sequence.seed, position, 0, q_.row_size()));
      }
    }
    batch_.num_tokens = num_tokens();
    batch_.num_sequences = static_cast<int32_t>(sequences_.size());
    batch_.positions = positions_.data();
    batch_.query_start = query_start_.data();
    batch_.context_lens = contexts_.data();
    batch_.block_tables = tables_.data();
    for (int32_t s = 0; s < batch_.num_sequences; ++s) block_starts_.push_back(s * max_blocks_);
    batch_.block_starts = block_starts_.data();
    for (const StepSequence& sequence : sequences_) {
      batch_.max_query_len = std::max(batch_.max_query_len, sequence.queries);
      batch_.num_single_queries += sequence.queries == 1;
    }
  }

  OpMachine& machine_;
  AttentionShape shape_;
  std::vector<StepSequence> sequences_;
  KvLayer kv_;
  OpVector<std::byte> pages_;
  int32_t max_blocks_ = 1;
  OpVector<int32_t> tables_;
  OpVector<int32_t> query_start_, contexts_, positions_, block_starts_;
  Floats q_{{0, 1, 1}};
  RaggedBatch batch_;
  OpVector<float> slopes_, sinks_;
};

}  // namespace quire::test
