#pragma once

#include <cstdint>
#include <list>
#include <ranges>
#include <unordered_map>
#include <vector>

#include "kv/block_pool.h"
#include "kv/prefix_cache.h"
#include "sched/sequence.h"
#include "sched/step_plan.h"

namespace quire {

/// Neighbours in the line of sequences that belong to one request.
using SequenceGroup = std::ranges::subrange<std::list<Sequence>::iterator>;

/// The host's blocks, where those of swapped-out groups wait, and the moves from and to the device's. A block that
/// several sequences of a group share is moved once, and stays shared.
class SwapSpace {
 public:
  explicit SwapSpace(int32_t num_blocks) : pool_(num_blocks) {}

  const BlockPool& pool() const { return pool_; }

  /// Whether all blocks of a group on the device could be moved here.
  bool has_room_for(SequenceGroup group);

  /// Put host blocks in the place of the group's device blocks, which are released: full ones stay in the prefix cache
  /// until reused. What is to be copied is added to `copies`. There must be room.
  void move_out(SequenceGroup group, PrefixCache& device, std::vector<BlockCopy>& copies);

  /// Blocks that move_in() would take of those that the device has available.
  int32_t num_blocks_to_move_in(SequenceGroup group, const PrefixCache& device);

  /// Put device blocks in the place of the group's host blocks, which are released. What the prefix cache still has is
  /// shared; the rest is to be copied, and what was in the cache is entered again.
  void move_in(SequenceGroup group, PrefixCache& device, std::vector<BlockCopy>& copies);

  /// Release the host blocks of a sequence that will not come back.
  void release(BlockTable& blocks);

 private:
  int32_t share_cached(Sequence& sequence, PrefixCache& device);
  static void enter(const Sequence& sequence, int32_t index, PrefixCache& device);
  void release_block(int32_t block);

  BlockPool pool_;
  std::unordered_map<int32_t, int32_t> moved_;  ///< where the blocks go of the group that is looked at
  std::vector<int32_t> hits_;                   ///< cached blocks of the sequence that is looked at
};

}  // namespace quire
