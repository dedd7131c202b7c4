#include "kv/prefix_cache.h"

#include <algorithm>
#include <bit>

#include "core/check.h"

namespace quire {

namespace {

/// splitmix64's finaliser: every input bit reaches every output bit.
/// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014.
uint64_t mix(uint64_t value) {
  value += 0x9e3779b97f4a7c15u;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

}  // namespace

PrefixCache::PrefixCache(BlockPool& pool, int32_t block_size, uint64_t seed)
    : pool_(pool), block_size_(block_size), seed_(seed) {
  QUIRE_CHECK(block_size >= 1, "block_size=", block_size);
  const auto num_blocks = static_cast<size_t>(pool.num_blocks());
  entries_.resize(num_blocks);
  tokens_.resize(num_blocks * static_cast<size_t>(block_size));
  buckets_.assign(std::bit_ceil(num_blocks), kNoBlock);
  idle_circle_.resize(num_blocks + 1);
  idle_circle_.back() = {circle_end(), circle_end()};
}

PrefixCache::Entry& PrefixCache::entry(int32_t block) {
  QUIRE_CHECK(block >= 0 && block < pool_.num_blocks(), "block=", block, ", num_blocks=", pool_.num_blocks());
  return entries_[static_cast<size_t>(block)];
}

const PrefixCache::Entry& PrefixCache::entry(int32_t block) const {
  QUIRE_CHECK(block >= 0 && block < pool_.num_blocks(), "block=", block, ", num_blocks=", pool_.num_blocks());
  return entries_[static_cast<size_t>(block)];
}

std::span<const int32_t> PrefixCache::tokens_of(int32_t block) const {
  const auto length = static_cast<size_t>(block_size_);
  return std::span(tokens_).subspan(static_cast<size_t>(block) * length, length);
}

uint64_t PrefixCache::chain_hash(int32_t parent, std::span<const int32_t> tokens, int32_t key_set) const {
  uint64_t hash = parent == kNoBlock ? seed_ + static_cast<uint32_t>(key_set) : entry(parent).hash;
  for (const int32_t token : tokens) hash = mix(hash ^ static_cast<uint32_t>(token));
  return hash;
}

int32_t PrefixCache::search(uint64_t hash, int32_t parent, std::span<const int32_t> tokens, int32_t key_set) const {
  const auto matches = [&](int32_t block) {
    const Entry& cached = entry(block);
    return cached.parent == parent && cached.key_set == key_set && std::ranges::equal(tokens_of(block), tokens);
  };
  int32_t block = buckets_[hash & (buckets_.size() - 1)];
  while (block != kNoBlock && !matches(block)) block = entry(block).next_in_bucket;
  return block;
}

int32_t PrefixCache::find(int32_t parent, std::span<const int32_t> tokens, int32_t key_set) const {
  QUIRE_CHECK(tokens.size() == static_cast<size_t>(block_size_), "tokens=", tokens.size());
  QUIRE_CHECK(parent == kNoBlock || is_cached(parent), "parent=", parent);
  return search(chain_hash(parent, tokens, key_set), parent, tokens, key_set);
}

void PrefixCache::find_prefix(std::span<const int32_t> tokens, int32_t max_blocks, int32_t key_set,
                              std::vector<int32_t>& blocks) const {
  blocks.clear();
  const auto length = static_cast<size_t>(block_size_);
  int32_t block = kNoBlock;
  while (blocks.size() < static_cast<size_t>(max_blocks)) {
    block = find(block, tokens.subspan(blocks.size() * length, length), key_set);
    if (block == kNoBlock) return;
    blocks.push_back(block);
  }
}

int32_t PrefixCache::insert(int32_t parent, int32_t block, std::span<const int32_t> tokens, int32_t key_set) {
  QUIRE_CHECK(tokens.size() == static_cast<size_t>(block_size_), "tokens=", tokens.size());
  QUIRE_CHECK(pool_.references(block) >= 1 && !is_cached(block), "block=", block);
  QUIRE_CHECK(parent == kNoBlock || is_cached(parent), "parent=", parent);
  const uint64_t hash = chain_hash(parent, tokens, key_set);
  if (const int32_t first = search(hash, parent, tokens, key_set); first != kNoBlock) return first;
  entry(block) = {.cached = true, .hash = hash, .parent = parent, .key_set = key_set, .next_in_bucket = bucket(hash)};
  bucket(hash) = block;
  std::ranges::copy(tokens, tokens_.begin() + static_cast<ptrdiff_t>(block) * block_size_);
  if (parent != kNoBlock) ++entry(parent).num_children;
  ++num_cached_;
  return block;
}

void PrefixCache::retain(int32_t block) {
  const bool was_idle = is_idle(block);
  pool_.retain(block);
  if (was_idle) unlink(block);
}

void PrefixCache::release(int32_t block) {
  if (pool_.release(block) > 0) return;
  if (is_cached(block)) {
    link_as_newest(block);
  } else {
    pool_.give_back(block);
  }
}

int32_t PrefixCache::take() {
  if (pool_.num_free() == 0) {
    QUIRE_CHECK(num_idle_ > 0, "no block is available: num_blocks=", pool_.num_blocks());
    evict(idle_circle_.back().newer);
  }
  return pool_.take();
}

void PrefixCache::evict(int32_t block) {
  Entry& evicted = entry(block);
  // A child that outlived its parent would be found under whatever the parent's block holds next.
  QUIRE_CHECK(evicted.num_children == 0, "evicted before its children: block=", block);
  int32_t* place = &bucket(evicted.hash);
  while (*place != block) place = &entry(*place).next_in_bucket;
  *place = evicted.next_in_bucket;
  if (evicted.parent != kNoBlock) --entry(evicted.parent).num_children;
  evicted = {};
  --num_cached_;
  unlink(block);
  pool_.give_back(block);
}

void PrefixCache::link_as_newest(int32_t block) {
  Link& end = idle_circle_.back();
  idle_circle_[static_cast<size_t>(block)] = {.older = end.older, .newer = circle_end()};
  idle_circle_[static_cast<size_t>(end.older)].newer = block;
  end.older = block;
  ++num_idle_;
}

void PrefixCache::unlink(int32_t block) {
  const Link link = idle_circle_[static_cast<size_t>(block)];
  idle_circle_[static_cast<size_t>(link.older)].newer = link.newer;
  idle_circle_[static_cast<size_t>(link.newer)].older = link.older;
  --num_idle_;
}

void PrefixCache::list_cached(std::vector<CachedBlock>& out) const {
  out.clear();
  for (int32_t block : buckets_) {
    for (; block != kNoBlock; block = entry(block).next_in_bucket) {
      const Entry& cached = entry(block);
      const int32_t found = find(cached.parent, tokens_of(block), cached.key_set);
      out.push_back({block, cached.parent, found, tokens_of(block), cached.key_set});
    }
  }
}

void PrefixCache::list_idle(std::vector<int32_t>& out) const {
  out.clear();
  for (int32_t block = idle_circle_.back().newer; block != circle_end();) {
    out.push_back(block);
    block = idle_circle_[static_cast<size_t>(block)].newer;
  }
}

}  // namespace quire
