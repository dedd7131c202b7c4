#pragma once

#include <cstdint>
#include <string>

#include "quire/config.h"
#include "quire/engine.h"

namespace quire {

/// What a rank of a model takes and what its device has, in bytes; known before any weight is read.
struct MemoryNeeds {
  int32_t num_ranks = 1;
  int64_t weight_bytes = 0;
  int64_t workspace_bytes = 0;
  int64_t kv_block_bytes = 0;
  /// What could be had now, and all that the device has; where the ranks share the host's memory, a part for each.
  int64_t available_bytes = 0;
  int64_t total_bytes = 0;
  /// The same of the host; asked for where the device has memory of its own.
  int64_t host_available_bytes = 0;
  int64_t host_total_bytes = 0;
  /// A GPU's memory, of which an engine takes the share that it is given; not the host's, which all programs share.
  bool own_memory = false;
  /// Longest sequence that the model's config allows.
  int32_t max_positions = 0;
};

/// Divide the memory of each rank: weights and workspace first, then the KV cache.
///
/// KV cache: num_blocks_override, else kv_cache_memory_bytes, else
/// - on a GPU all that is left of gpu_memory_utilization, after what is in use already, weights and workspace;
/// - on the host enough for 16 sequences (max_num_seqs, if fewer) of max_model_len, at most 4 GiB of all ranks unless a
///   single sequence needs more, and at most 40 % of what is left beside the weights and workspace.
///
/// max_model_len: the configured one, else the model's. Where the cache does not hold the model's, it is reduced with
/// one line in the log on the host or with fit_max_model_len, and refused on a GPU.
///
/// Swap space: on a GPU swap_space_bytes of the host's memory, or what all sequences fill, if that is less. More than
/// 70 % of that memory for all ranks is refused and more than 40 % is told in the log, as by vLLM 0.4.0.
///
/// Raises: kInvalidArgument for a max_model_len that the model or the cache cannot hold and for swap_space_bytes,
/// kOutOfMemory if the weights, the cache asked for or the swap space do not fit; all with the numbers and what to
/// change.
MemoryPlan plan_memory(const MemoryNeeds& needs, const EngineConfig& config);

/// One line for people: where the memory goes.
std::string describe_plan(const MemoryPlan& plan, const std::string& backend);

}  // namespace quire
