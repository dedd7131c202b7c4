#pragma once

#include <cstdint>

namespace quire {

// Counting of KV blocks. How many bytes a block takes is the backend's answer (Backend::kv_block_bytes); the rooms kv
// and sched never need it.

/// The number of no block: the parent of a first block, the result of a search in vain.
inline constexpr int32_t kNoBlock = -1;

/// Blocks needed to hold `num_tokens` >= 0 tokens, the last one perhaps in part.
constexpr int32_t blocks_for_tokens(int32_t num_tokens, int32_t block_size) {
  return num_tokens / block_size + (num_tokens % block_size != 0 ? 1 : 0);
}

/// Most tokens that `num_blocks` blocks hold.
constexpr int64_t tokens_for_blocks(int32_t num_blocks, int32_t block_size) {
  return static_cast<int64_t>(num_blocks) * block_size;
}

}  // namespace quire
