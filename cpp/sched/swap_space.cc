#include "sched/swap_space.h"

#include <span>

#include "kv/layout.h"

namespace quire {

bool SwapSpace::has_room_for(SequenceGroup group) {
  moved_.clear();
  for (const Sequence& sequence : group) {
    for (const int32_t block : sequence.blocks.blocks()) moved_.emplace(block, kNoBlock);
  }
  return moved_.size() <= static_cast<size_t>(pool_.num_free());
}

void SwapSpace::move_out(SequenceGroup group, PrefixCache& device, std::vector<BlockCopy>& copies) {
  moved_.clear();
  for (Sequence& sequence : group) {
    // The deepest first: see PrefixCache.
    for (int32_t index = sequence.blocks.size() - 1; index >= 0; --index) {
      const int32_t block = sequence.blocks[index];
      const auto [place, is_new] = moved_.emplace(block, kNoBlock);
      if (is_new) {
        place->second = pool_.take();
        copies.push_back({.from = block, .to = place->second});
      } else {
        pool_.retain(place->second);
      }
      sequence.blocks.replace(index, place->second);
      device.release(block);
    }
  }
}

int32_t SwapSpace::num_blocks_to_move_in(SequenceGroup group, const PrefixCache& device) {
  moved_.clear();
  for (const Sequence& sequence : group) {
    device.find_prefix(sequence.tokens, sequence.num_registered, sequence.key_set, hits_);
    for (int32_t index = 0; index < sequence.blocks.size(); ++index) {
      const auto place = static_cast<size_t>(index);
      // An idle block is one of those that are available.
      if (place >= hits_.size() || device.is_idle(hits_[place])) moved_.emplace(sequence.blocks[index], kNoBlock);
    }
  }
  return static_cast<int32_t>(moved_.size());
}

void SwapSpace::move_in(SequenceGroup group, PrefixCache& device, std::vector<BlockCopy>& copies) {
  // Before any block is taken, which might be one of those.
  std::vector<int32_t> num_shared;
  for (Sequence& sequence : group) num_shared.push_back(share_cached(sequence, device));
  moved_.clear();
  auto first = num_shared.begin();
  for (Sequence& sequence : group) {
    for (int32_t index = *first++; index < sequence.blocks.size(); ++index) {
      const int32_t block = sequence.blocks[index];
      const auto [place, is_new] = moved_.emplace(block, kNoBlock);
      if (is_new) {
        place->second = device.take();
        copies.push_back({.from = block, .to = place->second});
      } else {
        device.retain(place->second);
      }
      sequence.blocks.replace(index, place->second);
      release_block(block);
      if (is_new && index < sequence.num_registered) enter(sequence, index, device);
    }
  }
}

/// How many of the sequence's first blocks the cache still has; they are the device's afterwards.
int32_t SwapSpace::share_cached(Sequence& sequence, PrefixCache& device) {
  device.find_prefix(sequence.tokens, sequence.num_registered, sequence.key_set, hits_);
  const auto num_found = static_cast<int32_t>(hits_.size());
  for (int32_t index = 0; index < num_found; ++index) {
    const int32_t cached = hits_[static_cast<size_t>(index)];
    device.retain(cached);
    release_block(sequence.blocks[index]);
    sequence.blocks.replace(index, cached);
  }
  return num_found;
}

void SwapSpace::enter(const Sequence& sequence, int32_t index, PrefixCache& device) {
  const auto length = static_cast<size_t>(device.block_size());
  const auto tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(index) * length, length);
  const int32_t parent = index == 0 ? kNoBlock : sequence.blocks[index - 1];
  device.insert(parent, sequence.blocks[index], tokens, sequence.key_set);
}

void SwapSpace::release(BlockTable& blocks) {
  while (!blocks.empty()) release_block(blocks.pop());
}

void SwapSpace::release_block(int32_t block) {
  if (pool_.release(block) == 0) pool_.give_back(block);
}

}  // namespace quire
