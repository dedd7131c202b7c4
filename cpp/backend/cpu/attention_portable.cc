#include <algorithm>
#include <cmath>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_layout.h"
#include "backend/cpu/rows.h"

namespace quire::cpu::portable {
namespace {

/// One query row: a token and a head.
struct Row {
  const float* q = nullptr;
  const int32_t* block_table = nullptr;
  float* out = nullptr;
  int64_t head = 0;
  int64_t kv_head = 0;
  int64_t position = 0;
};

template <typename T>
const T* page_of(const AttentionArgs& args, const Row& row, int64_t key) {
  return kv_page<const T>(args.kv, row.block_table[key / args.kv.block_size]);
}

template <typename T>
double score(const AttentionArgs& args, const KvLayout& layout, const Row& row, int64_t key) {
  const T* const page = page_of<T>(args, row, key);
  double sum = 0.0;
  for (int64_t i = 0; i < args.kv.head_dim; ++i) {
    sum += double{row.q[i]} * to_float(page[layout.key(row.kv_head, i, key % layout.block_size)]);
  }
  sum *= args.scale;
  if (args.softcap > 0.0f) sum = args.softcap * std::tanh(sum / args.softcap);
  if (args.alibi_slopes != nullptr) sum += args.alibi_slopes[row.head] * static_cast<double>(key - row.position);
  return sum;
}

/// Two passes over the keys: the first finds the largest score, so that no exponential overflows.
template <typename T>
void attend(const AttentionArgs& args, const Row& row) {
  const KvLayout layout = kv_layout(args.kv);
  const int64_t first = args.window > 0 ? std::max<int64_t>(0, row.position - args.window + 1) : 0;
  double best = args.sinks != nullptr ? args.sinks[row.head] : -std::numeric_limits<double>::infinity();
  for (int64_t key = first; key <= row.position; ++key) best = std::max(best, score<T>(args, layout, row, key));
  double total = args.sinks != nullptr ? std::exp(args.sinks[row.head] - best) : 0.0;
  for (int64_t i = 0; i < args.kv.v_head_dim; ++i) row.out[i] = 0.0f;
  for (int64_t key = first; key <= row.position; ++key) {
    const double weight = std::exp(score<T>(args, layout, row, key) - best);
    total += weight;
    const T* const value = page_of<T>(args, row, key) + layout.value(row.kv_head, key % layout.block_size);
    for (int64_t i = 0; i < args.kv.v_head_dim; ++i) row.out[i] += static_cast<float>(weight * to_float(value[i]));
  }
  for (int64_t i = 0; i < args.kv.v_head_dim; ++i) row.out[i] = static_cast<float>(row.out[i] / total);
}

void attend_any(const AttentionArgs& args, const Row& row) {
  switch (args.kv.dtype) {
    case DType::kBFloat16: return attend<BFloat16>(args, row);
    case DType::kFloat16: return attend<Float16>(args, row);
    default: return attend<float>(args, row);
  }
}

}  // namespace

void attention(const AttentionArgs& args, Stream& stream) {
  const RaggedBatch& batch = *args.batch;
  const int64_t num_heads = args.q.shape[1];
  const int64_t group = num_heads / args.kv.num_kv_heads;
  for (int32_t sequence = 0; sequence < batch.num_sequences; ++sequence) {
    const int64_t begin = batch.query_start[sequence];
    const int64_t count = batch.query_start[sequence + 1] - begin;
    const int64_t first_position = batch.context_lens[sequence] - count;
    const int64_t row_work = int64_t{args.kv.head_dim} * batch.context_lens[sequence];
    split_items(stream, count * num_heads, row_work, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) {
        const int64_t token = begin + item / num_heads;
        const int64_t head = item % num_heads;
        attend_any(args, {.q = args.q.as<const float>() + token * args.q.strides[0] + head * args.q.strides[1],
                          .block_table = batch.block_tables + batch.block_starts[sequence],
                          .out = args.out.as<float>() + token * args.out.strides[0] + head * args.out.strides[1],
                          .head = head,
                          .kv_head = head / group,
                          .position = first_position + item / num_heads});
      }
    });
  }
}

}  // namespace quire::cpu::portable
