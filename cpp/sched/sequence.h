#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kv/block_table.h"
#include "sched/step_plan.h"

namespace quire {

enum class SequenceStatus {
  kWaiting,  ///< nothing of it is computed, or no longer
  kRunning,
  kSwapped,  ///< preempted, what is computed of it being in the host's memory
};

/// The mutable state of one sequence; changed by the scheduler only.
struct Sequence {
  SequenceId id = 0;
  SequenceStatus status = SequenceStatus::kWaiting;
  /// The sequence that it is a fork of, else itself: what one request has in common.
  SequenceId group = 0;
  /// Prompt, then output. The last ones may be negative: sampled by a step on its way, and not known yet.
  std::vector<int32_t> tokens;
  int32_t num_prompt_tokens = 0;
  /// Tokens whose keys and values are in the cache once the steps on their way have run.
  int32_t num_computed = 0;
  /// Tokens after those that the step between plan() and launched() computes.
  int32_t num_planned = 0;
  /// Tokens whose keys and values are in the cache now, as settled steps have told.
  int32_t num_settled = 0;
  /// By step on its way, its number modulo 2: num_settled once it has been settled; 0 if it is not in that step.
  std::array<int32_t, 2> settles = {0, 0};
  /// Tokens at the end that are not known yet.
  int32_t num_unknown = 0;
  /// Prompt tokens taken from the prefix cache at first admission; whole blocks, and never the whole prompt.
  int32_t num_cached = 0;
  bool use_prefix_cache = true;
  /// Which of the model's ways to compute keys serves this sequence; those of different ways are never mixed.
  int32_t key_set = 0;
  /// Order of arrival; the smallest is served first. Those after it belong to its forks.
  uint64_t arrival = 0;
  /// Places among the running sequences that this one holds: itself and the forks that are still to come.
  int32_t num_reserved = 1;
  /// The sequence that has computed its prompt: the parent of a fork, else, and after a preemption, itself.
  SequenceId prompt_owner = 0;
  /// It has run before, so that what it finds in the prefix cache is no longer counted.
  bool admitted = false;
  /// Some of its values were not finite: none of its blocks enters the prefix cache any more.
  bool poisoned = false;
  /// The first blocks of the table, as many as are in the prefix cache, or were when it was swapped out: settled, full
  /// and perhaps shared.
  int32_t num_registered = 0;
  /// Of the device's pool; while it is swapped out, of the host's.
  BlockTable blocks;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_known() const { return num_tokens() - num_unknown; }
  /// Tokens that no step computes yet; 0 until a sampled token is appended.
  int32_t num_pending() const { return num_tokens() - num_computed; }
};

}  // namespace quire
