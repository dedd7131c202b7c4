#pragma once

#include <cstdint>
#include <vector>

#include "backend/ops/attention.h"

namespace quire::cpu {

/// Partial softmax sums are formed over spans of so many absolute key positions, aligned to multiples of it, and joined
/// in ascending order. So the work may be cut along spans, tokens and heads without any change of a result's bits.
constexpr int32_t kAttentionSpan = 256;

/// Consecutive query tokens of one sequence with the heads that share one kv head. Row r of a tile is token r / group,
/// head r % group of the group.
struct AttentionTile {
  int32_t sequence = 0;
  int32_t kv_head = 0;
  int32_t token = 0;  ///< first one, in T
  int32_t num_tokens = 0;
  int32_t position = 0;   ///< of the first token
  int32_t key_begin = 0;  ///< first key that any row sees
  int32_t key_end = 0;    ///< one past the last key that any row sees

  int32_t span_begin() const { return key_begin / kAttentionSpan; }
  int32_t span_end() const { return (key_end - 1) / kAttentionSpan + 1; }
};

/// What one worker does at a time: a tile over some of its spans.
struct AttentionItem {
  int32_t tile = 0;
  int32_t span_begin = 0;
  int32_t span_end = 0;
};

/// The cut of one call into items, largest first within a sequence.
struct AttentionPlan {
  static constexpr int64_t kWhole = -1;

  /// The calling thread's plan, which keeps its memory from call to call.
  static AttentionPlan& of_this_thread();

  int32_t group = 0;              ///< H / G
  int32_t max_rows = 0;           ///< of any tile
  int64_t partials_per_span = 0;  ///< floats of a span of a full tile
  int64_t work = 0;               ///< products of a query with a key, roughly
  std::vector<AttentionTile> tiles;
  std::vector<AttentionItem> items;
  /// Per tile: where its spans' partial sums start in `partials`, kWhole if one item covers all its spans.
  std::vector<int64_t> partial_offsets;
  /// Per tile: items not yet done; whoever lowers it to zero joins the partial sums.
  std::vector<int32_t> open_items;
  std::vector<float> partials;

  /// `row_floats`: size of one row's partial sum. `most_rows`: largest tile that the kernels can take; a tile holds at
  /// least one token whatever its number of heads.
  void build(const AttentionArgs& args, int num_threads, int32_t most_rows, int32_t row_floats);

  int32_t rows(const AttentionTile& tile) const { return tile.num_tokens * group; }

 private:
  void add_tiles(const AttentionArgs& args, int32_t sequence, int32_t tokens_per_tile);
  void add_items(int num_threads);
};

}  // namespace quire::cpu
