#pragma once

#include <cstdint>

#include "quire/config.h"
#include "quire/engine.h"

namespace quire {

/// What a model takes and what the machine has, in bytes; known before any weight is read.
struct MemoryNeeds {
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t kv_block_bytes = 0;
  int64_t available_bytes = 0;
  /// Longest sequence that the model's config allows.
  int32_t max_positions = 0;
};

/// Divide the memory: weights and workspace first, then the KV cache.
///
/// KV cache: num_blocks_override, else kv_cache_memory_bytes, else enough for 16 sequences (max_num_seqs, if fewer) of
/// max_model_len, at most 4 GiB unless a single sequence needs more, and at most 40 % of what is left beside the
/// weights and workspace. max_model_len: the configured one, else the model's, reduced to what the cache holds with one
/// line in the log. Raises: kInvalidArgument for a max_model_len that the model or the cache cannot hold, kOutOfMemory
/// if the weights or the cache asked for do not fit; both with the numbers and what to change.
MemoryPlan plan_memory(const MemoryNeeds& needs, const EngineConfig& config);

}  // namespace quire
