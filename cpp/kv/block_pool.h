#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quire {

/// Fixed-size blocks 0 .. num_blocks - 1 and how many owners each has.
///
/// A block is *free* (in this pool's list, without owners and without content worth keeping), *used* (one or more
/// owners) or *kept*: without owners, but held back from the free list by who released it last (PrefixCache).
/// A pool may have no blocks at all. Every operation takes constant time. Misuse raises kInternal and changes nothing.
class BlockPool {
 public:
  explicit BlockPool(int32_t num_blocks);

  int32_t num_blocks() const { return static_cast<int32_t>(references_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_used() const { return num_used_; }
  std::span<const int32_t> free_blocks() const { return free_; }

  /// Owners of a block.
  int32_t references(int32_t block) const;

  /// Take a free block: its only owner is the caller. There must be one.
  int32_t take();

  /// Add an owner to a used or a kept block.
  void retain(int32_t block);

  /// Give up one ownership and return how many are left. With none left the block is kept, until give_back or retain.
  int32_t release(int32_t block);

  /// Make a kept block free.
  void give_back(int32_t block);

 private:
  /// Outside the range of owners: tells a free block from a kept one.
  static constexpr int32_t kFree = -1;

  int32_t& state(int32_t block);

  std::vector<int32_t> references_;  ///< by block: number of owners, or kFree
  std::vector<int32_t> free_;        ///< taken from the back: the block freed last is the warmest
  int32_t num_used_ = 0;
};

}  // namespace quire
