#include "engine/memory_plan.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "core/check.h"
#include "core/log.h"

namespace quire {
namespace {

constexpr int64_t kDefaultSequences = 16;
constexpr int64_t kDefaultBytes = int64_t{4} << 30;
/// A toy's blocks are so small that a GPU has room for more of them than the host should keep books of.
constexpr int64_t kMostOwnBlocks = 1 << 20;

/// "3.71 GiB", "17.0 MiB" or "512 bytes".
std::string readable(int64_t bytes) {
  char text[32];
  if (bytes >= int64_t{1} << 30) {
    std::snprintf(text, sizeof(text), "%.2f GiB", static_cast<double>(bytes) / 0x1p30);
  } else if (bytes >= int64_t{1} << 20) {
    std::snprintf(text, sizeof(text), "%.1f MiB", static_cast<double>(bytes) / 0x1p20);
  } else {
    std::snprintf(text, sizeof(text), "%lld bytes", static_cast<long long>(bytes));
  }
  return text;
}

int64_t blocks_for(int64_t num_tokens, int32_t block_size) {
  return (num_tokens + block_size - 1) / block_size;
}

bool is_sized(const EngineConfig& config) {
  return config.num_blocks_override || config.kv_cache_memory_bytes;
}

/// What weights, workspace and KV cache may take together. A cache whose size is given may use all that is there.
int64_t budget(const MemoryNeeds& needs, const EngineConfig& config) {
  if (!needs.own_memory || is_sized(config)) return needs.available_bytes;
  const auto share = static_cast<int64_t>(config.gpu_memory_utilization * static_cast<double>(needs.total_bytes));
  return share - (needs.total_bytes - needs.available_bytes);
}

/// "12.50 GiB", and on a GPU what it is a part of.
std::string readable_budget(const MemoryNeeds& needs, const EngineConfig& config) {
  const std::string bytes = readable(std::max<int64_t>(budget(needs, config), 0));
  if (!needs.own_memory || is_sized(config)) return bytes;
  return detail::join_message(bytes, " (", readable(needs.total_bytes),
                              " x gpu_memory_utilization=", config.gpu_memory_utilization, ", less ",
                              readable(needs.total_bytes - needs.available_bytes), " in use)");
}

const char* remedy(const MemoryNeeds& needs) {
  return needs.own_memory ? ": free memory of the GPU, raise gpu_memory_utilization, or use a smaller model"
                          : ": use a smaller model, or free memory";
}

/// Blocks of the host's memory if the user has not said how many. `free_bytes`: beside weights and workspace.
int64_t shared_blocks(const MemoryNeeds& needs, const EngineConfig& config, int64_t max_model_len, int64_t free_bytes) {
  const int64_t per_sequence = blocks_for(max_model_len, config.block_size);
  const int64_t sequences = std::min<int64_t>(config.max_num_seqs, kDefaultSequences);
  const int64_t ceiling = std::max(kDefaultBytes / needs.num_ranks / needs.kv_block_bytes, per_sequence);
  const int64_t affordable = free_bytes / 5 * 2 / needs.kv_block_bytes;
  return std::min({sequences * per_sequence, ceiling, affordable});
}

int64_t choose_blocks(const MemoryNeeds& needs, const EngineConfig& config, int64_t max_model_len, int64_t free_bytes) {
  if (!is_sized(config)) {
    const int64_t blocks = needs.own_memory ? std::min(free_bytes / needs.kv_block_bytes, kMostOwnBlocks)
                                            : shared_blocks(needs, config, max_model_len, free_bytes);
    QUIRE_REQUIRE(blocks > 0, ErrorKind::kOutOfMemory, "[memory] no memory for the KV cache: block of ",
                  config.block_size, " tokens=", readable(needs.kv_block_bytes),
                  ", free beside the weights=", readable(free_bytes), remedy(needs));
    return blocks;
  }
  const int64_t blocks = config.num_blocks_override ? int64_t{*config.num_blocks_override}
                                                    : *config.kv_cache_memory_bytes / needs.kv_block_bytes;
  QUIRE_REQUIRE(blocks > 0, ErrorKind::kInvalidArgument, "[memory] the KV cache is smaller than one block: ",
                "kv_cache_memory_bytes=", *config.kv_cache_memory_bytes, ", expected=at least ", needs.kv_block_bytes);
  QUIRE_REQUIRE(blocks <= free_bytes / needs.kv_block_bytes, ErrorKind::kOutOfMemory,
                "[memory] the KV cache does not fit: ", blocks, " blocks of ", readable(needs.kv_block_bytes),
                " asked for, free beside the weights=", readable(free_bytes),
                ": set kv_cache_memory_bytes <= ", std::max<int64_t>(free_bytes, 0));
  return blocks;
}

/// What to set, other than the length, so that `length` tokens fit: ", or gpu_memory_utilization >= 0.93". Empty if
/// nothing helps.
std::string other_remedy(const MemoryNeeds& needs, const EngineConfig& config, int64_t length) {
  const int64_t blocks = blocks_for(length, config.block_size);
  const int64_t bytes = blocks * needs.kv_block_bytes;
  if (config.num_blocks_override) return detail::join_message(", or num_blocks_override >= ", blocks);
  if (!needs.own_memory || config.kv_cache_memory_bytes) {
    return detail::join_message(", or kv_cache_memory_bytes >= ", bytes);
  }
  const int64_t taken = needs.total_bytes - needs.available_bytes + needs.weight_bytes + needs.workspace_bytes + bytes;
  const double share = std::ceil(100.0 * static_cast<double>(taken) / static_cast<double>(needs.total_bytes)) / 100.0;
  return share <= 1.0 ? detail::join_message(", or gpu_memory_utilization >= ", share) : std::string();
}

/// The longest sequence, held against model and cache.
int32_t choose_length(const MemoryNeeds& needs, const EngineConfig& config, int64_t num_blocks) {
  const int64_t held = num_blocks * config.block_size;
  const int64_t wanted = config.max_model_len.value_or(needs.max_positions);
  if (wanted <= held) return static_cast<int32_t>(wanted);
  const std::string cache = readable(num_blocks * needs.kv_block_bytes);
  const bool fits = !config.max_model_len && (config.fit_max_model_len || !needs.own_memory);
  QUIRE_REQUIRE(fits, ErrorKind::kInvalidArgument, "[memory] max_model_len=", wanted, " tokens",
                config.max_model_len ? "" : " (the model's own)", " needs ",
                readable(blocks_for(wanted, config.block_size) * needs.kv_block_bytes), " of KV cache but only ", cache,
                " fit: set max_model_len <= ", held, config.max_model_len ? "" : " (\"auto\": as long as fits)",
                other_remedy(needs, config, wanted));
  log(config.fit_max_model_len ? LogLevel::kInfo : LogLevel::kWarning,
      detail::join_message("[memory] max_model_len reduced from ", wanted, " to ", held,
                           " tokens, which is what the KV cache of ", cache, " holds",
                           config.fit_max_model_len ? "" : ": set kv_cache_memory_bytes for more"));
  return static_cast<int32_t>(held);
}

constexpr double kMostOfHost = 0.7;
constexpr double kMuchOfHost = 0.4;

/// `bytes`: of all ranks, whose memory of the host is the same.
void check_swap_space(const MemoryNeeds& needs, int64_t bytes) {
  const double share = static_cast<double>(bytes) / static_cast<double>(needs.host_total_bytes);
  const std::string numbers =
      detail::join_message("swap_space=", readable(bytes), ", memory of the host=", readable(needs.host_total_bytes));
  QUIRE_REQUIRE(share <= kMostOfHost, ErrorKind::kInvalidArgument, "[memory] the swap space is too large: ", numbers,
                ", expected=at most 70 % of it");
  QUIRE_REQUIRE(bytes <= needs.host_available_bytes, ErrorKind::kOutOfMemory,
                "[memory] the swap space does not fit: ", numbers, ", available=", readable(needs.host_available_bytes),
                ": lower swap_space, or free memory of the host");
  if (share > kMuchOfHost) {
    log(LogLevel::kWarning, detail::join_message("[memory] the swap space may be too large: ", numbers));
  }
}

/// Blocks of the host's memory for what is swapped out.
int32_t choose_swap_blocks(const MemoryNeeds& needs, const EngineConfig& config, int32_t max_model_len) {
  if (!needs.own_memory) return 0;
  const int64_t affordable = config.swap_space_bytes / needs.kv_block_bytes;
  const int64_t useful = config.max_num_seqs * blocks_for(max_model_len, config.block_size);
  const int64_t blocks = std::min({affordable, useful, int64_t{std::numeric_limits<int32_t>::max()}});
  if (blocks > 0) check_swap_space(needs, blocks * needs.kv_block_bytes * needs.num_ranks);
  return static_cast<int32_t>(blocks);
}

}  // namespace

MemoryPlan plan_memory(const MemoryNeeds& needs, const EngineConfig& config) {
  QUIRE_CHECK(needs.kv_block_bytes > 0, "kv_block_bytes=", needs.kv_block_bytes);
  QUIRE_REQUIRE(
      config.max_model_len.value_or(0) <= needs.max_positions, ErrorKind::kInvalidArgument,
      "[memory] the model allows no sequence of that length: max_model_len=", config.max_model_len.value_or(0),
      ", expected=at most ", needs.max_positions, " (max_position_embeddings, rope scaling included)");
  const int64_t free_bytes = budget(needs, config) - needs.weight_bytes - needs.workspace_bytes;
  QUIRE_REQUIRE(free_bytes > 0, ErrorKind::kOutOfMemory,
                "[memory] the model does not fit: weights=", readable(needs.weight_bytes),
                ", workspace=", readable(needs.workspace_bytes), ", available=", readable_budget(needs, config),
                remedy(needs));
  const int64_t wanted_length = config.max_model_len.value_or(needs.max_positions);
  const int64_t num_blocks =
      std::min<int64_t>(choose_blocks(needs, config, wanted_length, free_bytes), std::numeric_limits<int32_t>::max());
  const int32_t max_model_len = choose_length(needs, config, num_blocks);
  const int32_t num_swap_blocks = choose_swap_blocks(needs, config, max_model_len);
  return {.num_ranks = needs.num_ranks,
          .weight_bytes = needs.weight_bytes,
          .kv_cache_bytes = num_blocks * needs.kv_block_bytes,
          .kv_bytes_per_token = needs.kv_block_bytes / config.block_size,
          .workspace_bytes = needs.workspace_bytes,
          .swap_space_bytes = num_swap_blocks * needs.kv_block_bytes,
          .num_swap_blocks = num_swap_blocks,
          .num_blocks = static_cast<int32_t>(num_blocks),
          .block_size = config.block_size,
          .max_model_len = max_model_len,
          .available_bytes = needs.available_bytes,
          .total_bytes = needs.total_bytes};
}

std::string describe_plan(const MemoryPlan& plan, const std::string& backend) {
  return detail::join_message("[memory] ", backend, plan.num_ranks > 1 ? ", each: weights " : ": weights ",
                              readable(plan.weight_bytes), ", workspace ", readable(plan.workspace_bytes),
                              ", KV cache ", readable(plan.kv_cache_bytes), " = ",
                              int64_t{plan.num_blocks} * plan.block_size, " tokens, max_model_len ", plan.max_model_len,
                              plan.swap_space_bytes > 0 ? ", swap space " + readable(plan.swap_space_bytes) : "", "; ",
                              readable(plan.available_bytes), " of ", readable(plan.total_bytes), " were free");
}

}  // namespace quire
