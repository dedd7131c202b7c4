#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/block_pool.h"
#include "kv/prefix_cache.h"
#include "sched/sequence.h"
#include "sched/step_plan.h"

namespace quire {

struct SchedulerConfig {
  int32_t block_size = 16;
  int32_t num_blocks = 0;
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 512;
  int32_t max_model_len = 2048;
  bool enable_prefix_caching = true;
  /// Seed of the block hash, so that a stranger cannot guess it.
  uint64_t hash_seed = 0;
};

struct SchedulerStats {
  int64_t num_preemptions = 0;
  int64_t num_cached_tokens = 0;  ///< prompt tokens found in the prefix cache
};

/// Decides what each step computes: first come, first served, chunked prefill and decode mixed under one token budget.
/// Knows tokens and block counts only; a pure function of its state, without clock, thread or device.
///
/// Life of a sequence: add -> waiting -> (plan) running -> append tokens -> finish or abort. When blocks run out, the
/// youngest running sequence is preempted: its blocks are released and it waits, first in line, to be computed again.
///
/// Thread safety: none; the engine thread owns it.
class Scheduler {
 public:
  explicit Scheduler(const SchedulerConfig& config);

  /// Queue a sequence. `tokens` is its prompt; `use_prefix_cache` false: compute every token (prompt
  /// log-probabilities). The caller has checked that 1 <= tokens.size() < max_model_len and that max_model_len fits the
  /// pool. Children made by fork() need their parent's prompt only.
  void add(SequenceId id, std::vector<int32_t> tokens, bool use_prefix_cache);

  /// Make `child` a copy of `parent`, sharing its blocks, after the parent's prompt has been computed and before its
  /// first token is appended. The child is running at once.
  void fork(SequenceId parent, SequenceId child);

  /// The next step; empty if there is nothing to do. Every running sequence that can get a block makes progress.
  const StepPlan& plan();

  /// Tell that the planned step has been computed: progress and prefix cache advance. `poisoned` sequences' blocks of
  /// this step never enter the prefix cache (their values are not finite).
  void commit(std::span<const SequenceId> poisoned);

  /// Append a sampled token to a sequence whose plan said `samples`.
  void append(SequenceId id, int32_t token);

  /// Remove a sequence in any state and release its blocks (full ones stay in the prefix cache until reused).
  void remove(SequenceId id);

  const Sequence& sequence(SequenceId id) const;
  bool contains(SequenceId id) const;
  int32_t num_running() const;
  int32_t num_waiting() const;
  int32_t num_free_blocks() const;
  const SchedulerConfig& config() const { return config_; }
  const SchedulerStats& stats() const { return stats_; }

 private:
  friend struct InvariantsAccess;
  SchedulerConfig config_;
  SchedulerStats stats_;
};

}  // namespace quire
