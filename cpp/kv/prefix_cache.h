#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kv/block_pool.h"
#include "kv/layout.h"

namespace quire {

/// One cached block, as checks and tests see it.
struct CachedBlock {
  int32_t block = kNoBlock;
  int32_t parent = kNoBlock;  ///< the cached block before it, kNoBlock for a first block
  int32_t found = kNoBlock;   ///< what a search for its content answers; `block`, if all is well
  std::span<const int32_t> tokens;
  int32_t key_set = 0;
};

/// Full blocks that may be shared between sequences with equal beginnings, and the door through which sequences take
/// and release blocks.
///
/// Cached blocks form a tree: a block's *parent* holds the tokens just before its own. A block is found by a hash of
/// its parent's hash and its own tokens, keyed by a seed; then parent and tokens are compared in full, so a collision
/// costs time and never gives wrong keys and values. A model may compute the keys of the same tokens in several ways
/// (Sequence::key_set): each is a tree of its own.
///
/// A cached block without owners is *idle*: it can be found and shared again, and it counts as available, because it is
/// given to who needs a block when none is free. The block idle for the longest goes first. Whoever owns a block owns
/// its parent, and releases the deepest block first; so a parent is never evicted before its children, and of two
/// blocks released together the one with the longer prefix goes first.
///
/// Every operation takes constant time, find and insert plus the length of a block. Nothing allocates memory after
/// construction. Misuse raises kInternal.
class PrefixCache {
 public:
  /// `seed` keys the hash, so that a stranger cannot choose tokens that collide.
  PrefixCache(BlockPool& pool, int32_t block_size, uint64_t seed);

  int32_t block_size() const { return block_size_; }
  /// Blocks that take() can give: free and idle ones.
  int32_t num_available() const { return pool_.num_free() + num_idle_; }
  int32_t num_idle() const { return num_idle_; }
  int32_t num_cached() const { return num_cached_; }
  bool is_cached(int32_t block) const { return entry(block).cached; }
  bool is_idle(int32_t block) const { return is_cached(block) && pool_.references(block) == 0; }

  /// Take a block whose content may be overwritten: a free one, else the one idle for the longest, which leaves the
  /// cache. There must be one.
  int32_t take();

  /// Add an owner to a used or idle block.
  void retain(int32_t block);

  /// Give up one ownership. With none left a cached block is idle, any other one free.
  void release(int32_t block);

  /// The cached block that holds `tokens` after `parent` (kNoBlock: at the beginning); kNoBlock if there is none.
  /// `tokens` are block_size many. The answer is not retained.
  int32_t find(int32_t parent, std::span<const int32_t> tokens, int32_t key_set = 0) const;

  /// The longest cached beginning of `tokens`, at most `max_blocks` blocks, which they must fill. Takes time in
  /// proportion to what it finds.
  void find_prefix(std::span<const int32_t> tokens, int32_t max_blocks, int32_t key_set,
                   std::vector<int32_t>& blocks) const;

  /// Enter a used block, computed and full, after its parent, which is cached. Returns the cached block with this
  /// content: `block` itself, or the one that was there first. The caller should share that one and release its own:
  /// nothing can be cached after a block that is not.
  int32_t insert(int32_t parent, int32_t block, std::span<const int32_t> tokens, int32_t key_set = 0);

  /// Every block that the hash table leads to, in no order. The tokens are valid until the cache changes.
  void list_cached(std::vector<CachedBlock>& out) const;

  /// Idle blocks in the order in which they will be evicted.
  void list_idle(std::vector<int32_t>& out) const;

 private:
  struct Entry {
    bool cached = false;
    uint64_t hash = 0;
    int32_t parent = kNoBlock;
    int32_t key_set = 0;
    int32_t num_children = 0;
    int32_t next_in_bucket = kNoBlock;
  };
  /// Neighbours in the circle of idle blocks; its last element stands before the oldest and after the newest.
  struct Link {
    int32_t older = 0;
    int32_t newer = 0;
  };

  Entry& entry(int32_t block);
  const Entry& entry(int32_t block) const;
  std::span<const int32_t> tokens_of(int32_t block) const;
  uint64_t chain_hash(int32_t parent, std::span<const int32_t> tokens, int32_t key_set) const;
  int32_t search(uint64_t hash, int32_t parent, std::span<const int32_t> tokens, int32_t key_set) const;
  int32_t& bucket(uint64_t hash) { return buckets_[hash & (buckets_.size() - 1)]; }
  int32_t circle_end() const { return pool_.num_blocks(); }
  void link_as_newest(int32_t block);
  void unlink(int32_t block);
  void evict(int32_t block);

  BlockPool& pool_;
  int32_t block_size_;
  uint64_t seed_;
  std::vector<Entry> entries_;     ///< by block
  std::vector<int32_t> tokens_;    ///< [num_blocks, block_size], meaningful where cached
  std::vector<int32_t> buckets_;   ///< first block of each chain; a power of two
  std::vector<Link> idle_circle_;  ///< by block, and circle_end()
  int32_t num_idle_ = 0;
  int32_t num_cached_ = 0;
};

}  // namespace quire
