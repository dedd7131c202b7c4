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
  /// Prompt tokens taken from the prefix cache at first admission.
  int32_t num_cached = 0;
  bool use_prefix_cache = true;
  /// Order of arrival; the smallest is served first.
  uint64_t arrival = 0;
  BlockTable blocks;
};

}  // namespace quire
