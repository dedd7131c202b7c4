#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "kv/block_pool.h"
#include "kv/layout.h"
#include "kv/prefix_cache.h"
#include "sched/sequence.h"
#include "sched/step_plan.h"
#include "sched/swap_space.h"

namespace quire {

struct SchedulerConfig {
  int32_t block_size = 16;
  int32_t num_blocks = 0;
  /// Blocks of the host for what is swapped out; 0: preempted groups are computed again.
  int32_t num_swap_blocks = 0;
  int32_t max_num_seqs = 256;
  int32_t max_num_batched_tokens = 512;
  int32_t max_model_len = 2048;
  bool enable_prefix_caching = true;
  /// Seed of the block hash, so that a stranger cannot guess it.
  uint64_t hash_seed = 0;
  /// A sequence that has grown beyond so many tokens is computed again from its first one, with the next set of keys;
  /// 0: never.
  int32_t recompute_length = 0;
};

struct SchedulerStats {
  int64_t num_preemptions = 0;       ///< of sequences
  int64_t num_swap_preemptions = 0;  ///< of them, by swapping out
  int64_t num_cached_tokens = 0;     ///< prompt tokens found in the prefix cache
};

/// Decides what each step computes: first come, first served, chunked prefill and decode mixed under one token budget.
/// Knows tokens and block counts only; a pure function of its state, without clock, thread or device.
///
/// Life of a sequence: add -> waiting -> (plan) running -> append tokens -> finish or abort. When blocks run out, the
/// youngest running ones are preempted and wait, first in line:
/// - the sequences of one request, if there are several and the host has room, are swapped out together: their blocks
///   move to the host, and come back when all of them have room again;
/// - else the youngest sequence alone: its blocks are released, and it is computed again.
///
/// Life of a step: plan -> launched -> settle. The next step can be planned when one has been launched and not settled
/// yet, with negative tokens in place of those that are not known; so a device never waits for its host. What is not
/// settled, or not known, never enters the prefix cache. Blocks that are released while a step on its way uses them may
/// be given away at once: steps run in order.
///
/// A step shares out max_num_batched_tokens in three rounds, the first arrived first in each:
/// 1. every running sequence gets one token; if those of a request need more blocks for it than there are, younger ones
///    are preempted, and at last they themselves;
/// 2. running prompts get the rest of their tokens, as far as budget and blocks allow;
/// 3. unless round 1 has preempted, waiting sequences are admitted and get their first chunk, if there is a place and
///    if all of their tokens fit, 1 % of the blocks being left free for running sequences to grow. If nothing runs, the
///    first is admitted in any case. Nobody overtakes, so what has been preempted comes back before anything new.
/// Of max_num_seqs places only three quarters of max_num_batched_tokens (rounded up) are given away. So round 1 reaches
/// every running sequence (decode never starves behind prompts) and leaves a quarter of the budget to prompts (they
/// never starve behind decode). A group of forks that is larger than this runs alone, the first arrived first. The
/// first arrived of all is never preempted and moves in every step, so every sequence ends; if its own request is too
/// large, that gives up its youngest sequences, one by one and to be computed again.
///
/// Raises kInternal for calls out of order; they change nothing.
/// Thread safety: none; the engine thread owns it.
class Scheduler {
 public:
  /// max_model_len must fit the pool.
  explicit Scheduler(const SchedulerConfig& config);

  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Queue a sequence. `tokens` is its prompt; `use_prefix_cache` false: compute every token (prompt
  /// log-probabilities), also when it runs again after a preemption. The caller has checked that
  /// 1 <= tokens.size() < max_model_len. `num_sequences_reserved`: itself and the forks that will follow, all of which
  /// are given a place when it is admitted. Range: [1, max_num_seqs]. Reserved places are given up with the first
  /// append. `key_set`: see Sequence.
  void add(SequenceId id, std::vector<int32_t> tokens, bool use_prefix_cache, int32_t num_sequences_reserved = 1,
           int32_t key_set = 0);

  /// Make `child` a copy of `parent`, sharing its blocks, after the step that ends the parent's prompt has been
  /// launched and before its first token is appended. The child is running at once. Of several forks the first made
  /// counts as the youngest.
  void fork(SequenceId parent, SequenceId child);

  /// The next step; empty if there is nothing to do. A sequence with nothing to compute, because no token has been
  /// appended, is passed over. The last plan's sequences have been launched or removed, and all launched steps but one
  /// settled.
  const StepPlan& plan();

  /// Tell that the planned step is on its way: progress advances. Sequences removed since plan() are ignored.
  void launched();

  /// Append the token that a launched step samples, for a sequence whose plan said `samples`, as long as it is shorter
  /// than max_model_len. Negative if it is not known yet: the number is handed back in PlannedSequence::tokens.
  void append(SequenceId id, int32_t token);

  /// Tell that the oldest step on its way has been computed: the prefix cache advances. `poisoned` sequences' blocks of
  /// this step never enter the prefix cache (their values are not finite), nor do any of their later ones, nor those of
  /// forks made since it was launched. Sequences removed since are ignored. The tokens that the step before has sampled
  /// have been resolved.
  void settle(std::span<const SequenceId> poisoned);

  /// Tell which the first token is that was not known.
  void resolve(SequenceId id, int32_t token);

  /// Remove a sequence in any state and release its blocks, the host's too (full ones of the device stay in the prefix
  /// cache until reused).
  void remove(SequenceId id);

  const Sequence& sequence(SequenceId id) const;
  bool contains(SequenceId id) const { return places_.contains(id); }
  bool has_sequences() const { return !line_.empty(); }
  int32_t num_running() const { return num_running_; }
  int32_t num_swapped() const { return num_swapped_; }
  /// Neither running nor swapped out.
  int32_t num_waiting() const { return static_cast<int32_t>(line_.size()) - num_running_ - num_swapped_; }
  /// Steps launched and not settled.
  int32_t num_in_flight() const { return num_in_flight_; }
  /// Blocks that can be had without preemption: free ones and cached ones without owners.
  int32_t num_free_blocks() const { return cache_.num_available(); }
  int32_t num_free_swap_blocks() const { return swap_space_.pool().num_free(); }
  const SchedulerConfig& config() const { return config_; }
  const SchedulerStats& stats() const { return stats_; }

 private:
  friend struct InvariantsAccess;
  using Line = std::list<Sequence>;

  Sequence& find(SequenceId id);
  void begin_step();
  void restart_outgrown();
  /// Round 1, for running sequences from `place` on; whether somebody has been preempted.
  bool give_one_token_each(Line::iterator place);
  void extend_prompts();
  void admit_waiting();
  void finish_plan();
  SequenceGroup group_at(Line::iterator first);
  SequenceGroup youngest_group();
  int32_t blocks_for_next_tokens(SequenceGroup group) const;
  void make_next_token_writable(Sequence& sequence);
  void plan_tokens(Sequence& sequence, int32_t wanted);
  void preempt_youngest();
  bool swap_out(SequenceGroup group);
  /// Whether the first of the waiting has been admitted, and the next one may be.
  bool admit_first();
  bool swap_in_first();
  void find_prefix(const Sequence& sequence);
  bool fits(const Sequence& sequence) const;
  bool fits(SequenceGroup swapped);
  void admit(Sequence& sequence);
  void start_running(Sequence& sequence);
  void stop_running(Sequence& sequence, SequenceStatus status);
  void register_full_blocks(Sequence& sequence);
  void forget(Sequence& sequence);
  void release_blocks(Sequence& sequence);
  void check_counts() const;

  int32_t blocks_for(int32_t num_tokens) const { return blocks_for_tokens(num_tokens, config_.block_size); }

  SchedulerConfig config_;
  SchedulerStats stats_;
  int32_t max_running_;       ///< see the class comment
  int32_t watermark_blocks_;  ///< left free by admission
  BlockPool pool_;
  PrefixCache cache_;
  SwapSpace swap_space_;

  /// All sequences in order of arrival: the running ones, then from first_waiting_ on those that wait or are swapped
  /// out, of which the ones that have run before come first. To admit and to preempt is to move that border, so no
  /// sequence can be in two places and order cannot be lost.
  Line line_;
  Line::iterator first_waiting_;
  std::unordered_map<SequenceId, Line::iterator> places_;
  int32_t num_running_ = 0;
  int32_t num_swapped_ = 0;
  int32_t num_places_ = 0;  ///< sum of num_reserved of running sequences
  uint64_t next_arrival_ = 0;

  uint32_t next_step_ = 0;  ///< number of the step that will be launched next
  int32_t num_in_flight_ = 0;

  // The step being planned.
  StepPlan plan_;
  bool step_open_ = false;     ///< between plan() and launched()
  int32_t budget_ = 0;         ///< tokens that the step may still take
  std::vector<int32_t> hits_;  ///< cached blocks found for the sequence at the head of the waiting
};

}  // namespace quire
