#include "backend/cpu/attention_plan.h"

#include <algorithm>

namespace quire::cpu {
namespace {

constexpr int64_t kItemsPerThread = 8;
/// Smaller tiles would spend more on unpacking keys and values than on the products.
constexpr int32_t kMinRows = 24;
/// What a key costs beside the products of its rows, in rows.
constexpr int64_t kRowsPerKeyRead = 8;

int64_t cost(const AttentionTile& tile, int32_t group) {
  return int64_t{tile.key_end - tile.key_begin} * (int64_t{tile.num_tokens} * group + kRowsPerKeyRead);
}

}  // namespace

AttentionPlan& AttentionPlan::of_this_thread() {
  thread_local AttentionPlan plan;
  return plan;
}

void AttentionPlan::build(const AttentionArgs& args, int num_threads, int32_t most_rows, int32_t row_floats) {
  const RaggedBatch& batch = *args.batch;
  const int32_t num_heads = static_cast<int32_t>(args.q.shape[1]);
  group = num_heads / args.kv.num_kv_heads;
  const int64_t all_rows = int64_t{batch.num_tokens} * num_heads;
  const int64_t wanted_rows = std::max<int64_t>(kMinRows, all_rows / (kItemsPerThread * num_threads));
  const int32_t tile_rows = static_cast<int32_t>(std::min<int64_t>(most_rows, wanted_rows));
  const int32_t tokens_per_tile = std::max(1, tile_rows / group);

  max_rows = 0;
  tiles.clear();
  for (int32_t sequence = 0; sequence < batch.num_sequences; ++sequence) add_tiles(args, sequence, tokens_per_tile);
  partials_per_span = int64_t{max_rows} * row_floats;
  add_items(num_threads);
}

void AttentionPlan::add_tiles(const AttentionArgs& args, int32_t sequence, int32_t tokens_per_tile) {
  const RaggedBatch& batch = *args.batch;
  const int32_t begin = batch.query_start[sequence];
  const int32_t count = batch.query_start[sequence + 1] - begin;
  const int32_t first_position = batch.context_lens[sequence] - count;
  // From the end, where a token sees most keys.
  for (int32_t last = count; last > 0; last -= tokens_per_tile) {
    const int32_t first = std::max(0, last - tokens_per_tile);
    AttentionTile tile;
    tile.sequence = sequence;
    tile.token = begin + first;
    tile.num_tokens = last - first;
    tile.position = first_position + first;
    tile.key_begin = args.window > 0 ? std::max(0, tile.position - args.window + 1) : 0;
    tile.key_end = first_position + last;
    max_rows = std::max(max_rows, rows(tile));
    for (tile.kv_head = 0; tile.kv_head < args.kv.num_kv_heads; ++tile.kv_head) tiles.push_back(tile);
  }
}

void AttentionPlan::add_items(int num_threads) {
  work = 0;
  for (const AttentionTile& tile : tiles) work += cost(tile, group);
  const int64_t largest = std::max<int64_t>(1, work / (kItemsPerThread * num_threads));
  items.clear();
  partial_offsets.clear();
  open_items.clear();
  int64_t num_partials = 0;
  for (size_t index = 0; index < tiles.size(); ++index) {
    const AttentionTile& tile = tiles[index];
    const int64_t spans = tile.span_end() - tile.span_begin();
    const int64_t wanted = num_threads == 1 ? 1 : (cost(tile, group) + largest - 1) / largest;
    const int64_t count = std::min(spans, wanted);
    for (int64_t item = 0; item < count; ++item) {
      items.push_back({.tile = static_cast<int32_t>(index),
                       .span_begin = tile.span_begin() + static_cast<int32_t>(spans * item / count),
                       .span_end = tile.span_begin() + static_cast<int32_t>(spans * (item + 1) / count)});
    }
    partial_offsets.push_back(count > 1 ? num_partials : kWhole);
    open_items.push_back(static_cast<int32_t>(count));
    if (count > 1) num_partials += spans * partials_per_span;
  }
  if (static_cast<int64_t>(partials.size()) < num_partials) partials.resize(static_cast<size_t>(num_partials));
}

}  // namespace quire::cpu
