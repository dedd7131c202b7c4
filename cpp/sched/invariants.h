#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kv/prefix_cache.h"
#include "sched/scheduler.h"

namespace quire {

/// What the invariants speak of, as plain data. Sequences and tokens are views, valid until the scheduler changes.
struct SchedulerSnapshot {
  SchedulerConfig config;
  SchedulerStats stats;
  std::vector<int32_t> references;  ///< by block: number of owners
  std::vector<int32_t> free_blocks;
  std::vector<CachedBlock> cached;
  std::vector<int32_t> idle_blocks;      ///< in the order in which they will be evicted
  int32_t num_cached_blocks = 0;         ///< as counted, not as listed
  int32_t num_free_blocks = 0;           ///< as told to users
  std::vector<int32_t> swap_references;  ///< by block of the host
  std::vector<int32_t> free_swap_blocks;
  std::vector<const Sequence*> running;
  std::vector<const Sequence*> waiting;  ///< or swapped out
  int32_t num_known = 0;                 ///< sequences that can be found by id
  int32_t num_swapped = 0;               ///< as counted
  int32_t num_places = 0;                ///< as counted, not as summed
  int32_t num_in_flight = 0;             ///< steps launched and not settled
  size_t newest_step = 0;                ///< number of the last one launched, modulo 2
};

/// Look at a scheduler. `snapshot` may be an old one, whose memory is used again.
void take_snapshot(const Scheduler& scheduler, SchedulerSnapshot& snapshot);

/// The first invariant that does not hold, in words and numbers; nothing, if all hold. They hold between any two calls:
///
/// Blocks
///  1. A block has as many references as there are running sequences with it in their table, a block of the host as
///     there are swapped ones, and no table names a block twice.
///  2. A block without references is either free or, on the device, idle, once; a block with references is neither.
///  3. Idle blocks are cached; free ones are not. num_free_blocks counts both kinds.
/// Prefix cache
///  4. Every cached block is found by its content, so no two hold the same.
///  5. A cached block's parent is cached and has at least as many owners; if both are idle, the parent will be evicted
///     after the block.
///  6. The first num_registered blocks of a sequence are cached, one the parent of the next, and hold its tokens; no
///     other block of its is cached, so that what a step on its way writes is not.
/// Sequences
///  7. Known sequences = running + waiting or swapped; each is in one place only, and its status says so.
///  8. Both are in order of arrival, and all running ones arrived before all others; of these, those that have run
///     before arrived before those that have not.
///  9. A waiting sequence owns nothing and has nothing computed.
/// 10. A running sequence has just the blocks for its computed and planned tokens, which are not more than its tokens,
///     which are not more than max_model_len. So has a swapped one, of which nothing is planned.
/// 11. Registered blocks are settled. Cached tokens are whole blocks and less than the prompt.
/// 12. Places = sum of what running sequences reserve, and not more than max_num_seqs.
/// 20. Swapped sequences of a group are neighbours, and no sequence of it runs.
/// Steps on their way
/// 18. There are at most two. What is settled grows by each that a sequence is in, and reaches what is computed.
/// 19. Negative tokens are just the num_unknown last ones, none of them is settled, and there are at most as many as
///     steps on their way and the one that has been settled last.
std::optional<std::string> find_violation(const SchedulerSnapshot& snapshot);

/// The same for a plan and the snapshot taken after it:
/// 13. Planned are just the sequences with num_planned > 0, in order of arrival, from where they have come, without a
///     gap; `samples` is said where the last token is reached; tokens and blocks are the sequence's.
/// 14. The sum of tokens is right and within max_num_batched_tokens.
/// 15. What the step writes, it writes to blocks that have one owner and are not cached.
/// 16. No sequence with something to compute is passed over while a younger one is planned; if something could be
///     computed, something is planned.
/// 17. Copies go to blocks of planned sequences, each block copied to once and none also copied from.
/// 21. What is swapped out goes to blocks of swapped sequences. No block is swapped to twice. No step swaps both out
/// and
///     in.
std::optional<std::string> find_violation(const SchedulerSnapshot& snapshot, const StepPlan& plan);

}  // namespace quire
