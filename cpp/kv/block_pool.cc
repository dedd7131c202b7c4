#include "kv/block_pool.h"

#include <algorithm>

#include "core/check.h"

namespace quire {

BlockPool::BlockPool(int32_t num_blocks) {
  QUIRE_CHECK(num_blocks >= 0, "num_blocks=", num_blocks);
  references_.assign(static_cast<size_t>(num_blocks), kFree);
  free_.reserve(static_cast<size_t>(num_blocks));
  for (int32_t block = num_blocks - 1; block >= 0; --block) free_.push_back(block);
}

int32_t& BlockPool::state(int32_t block) {
  QUIRE_CHECK(block >= 0 && block < num_blocks(), "block=", block, ", num_blocks=", num_blocks());
  return references_[static_cast<size_t>(block)];
}

int32_t BlockPool::references(int32_t block) const {
  QUIRE_CHECK(block >= 0 && block < num_blocks(), "block=", block, ", num_blocks=", num_blocks());
  return std::max(references_[static_cast<size_t>(block)], 0);
}

int32_t BlockPool::take() {
  QUIRE_CHECK(!free_.empty(), "no block is free: num_blocks=", num_blocks(), ", num_used=", num_used_);
  const int32_t block = free_.back();
  free_.pop_back();
  state(block) = 1;
  ++num_used_;
  return block;
}

void BlockPool::retain(int32_t block) {
  int32_t& references = state(block);
  QUIRE_CHECK(references != kFree, "a free block has no content to share: block=", block);
  if (references == 0) ++num_used_;
  ++references;
}

int32_t BlockPool::release(int32_t block) {
  int32_t& references = state(block);
  QUIRE_CHECK(references >= 1, "released more often than retained: block=", block);
  if (--references == 0) --num_used_;
  return references;
}

void BlockPool::give_back(int32_t block) {
  int32_t& references = state(block);
  QUIRE_CHECK(references == 0, "only a block without owners becomes free: block=", block, ", references=", references);
  references = kFree;
  free_.push_back(block);
}

}  // namespace quire
