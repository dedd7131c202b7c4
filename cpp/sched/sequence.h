#pragma once

#include <cstdint>
#include <vector>

#include "kv/block_table.h"
#include "sched/step_plan.h"

namespace quire {

enum class SequenceStatus { kWaiting, kRunning };

/// The mutable state of one sequence; changed by the scheduler only.
struct Sequence {
  SequenceId id = 0;
  SequenceStatus status = SequenceStatus::kWaiting;
  std::vector<int32_t> tokens;  ///< prompt, then output
  int32_t num_prompt_tokens = 0;
  /// Tokens whose keys and values are in the cache.
  int32_t num_computed = 0;
  /// Tokens after those that the step between plan() and commit() computes.
  int32_t num_planned = 0;
  /// Prompt tokens taken from the prefix cache at first admission; whole blocks, and never the whole prompt.
  int32_t num_cached = 0;
  bool use_prefix_cache = true;
  /// Which of the model's ways to compute keys serves this sequence; those of different ways are never mixed.
  int32_t key_set = 0;
  /// Order of arrival; the smallest is served first. Those after it belong to its forks.
  uint64_t arrival = 0;
  /// Places among the running sequences that this one holds: itself and the forks that are still to come.
  int32_t num_reserved = 1;
  /// It has run before, so that what it finds in the prefix cache is no longer counted.
  bool admitted = false;
  /// Some of its values were not finite: none of its blocks enters the prefix cache any more.
  bool poisoned = false;
  /// The first blocks of the table, as many as are in the prefix cache: computed, full and perhaps shared.
  int32_t num_registered = 0;
  BlockTable blocks;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  /// Tokens that have still to be computed; 0 until a sampled token is appended.
  int32_t num_pending() const { return num_tokens() - num_computed; }
};

}  // namespace quire
