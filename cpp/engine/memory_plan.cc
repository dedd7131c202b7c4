#include "engine/memory_plan.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <string>

#include "core/check.h"
#include "core/log.h"

namespace quire {
namespace {

constexpr int64_t kDefaultSequences = 16;
constexpr int64_t kDefaultBytes = int64_t{4} << 30;

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

/// Blocks of the KV cache if the user has not said how many. `free_bytes`: beside weights and workspace.
int64_t default_blocks(const MemoryNeeds& needs, int64_t blocks_per_sequence, int32_t max_num_seqs,
                       int64_t free_bytes) {
  const int64_t sequences = std::min<int64_t>(max_num_seqs, kDefaultSequences);
  const int64_t ceiling = std::max(kDefaultBytes / needs.kv_block_bytes, blocks_per_sequence);
  const int64_t affordable = free_bytes / 5 * 2 / needs.kv_block_bytes;
  return std::min({sequences * blocks_per_sequence, ceiling, affordable});
}

int64_t choose_blocks(const MemoryNeeds& needs, const EngineConfig& config, int64_t max_model_len, int64_t free_bytes) {
  if (!config.num_blocks_override && !config.kv_cache_memory_bytes) {
    const int64_t per_sequence = blocks_for(max_model_len, config.block_size);
    const int64_t blocks = default_blocks(needs, per_sequence, config.max_num_seqs, free_bytes);
    QUIRE_REQUIRE(blocks > 0, ErrorKind::kOutOfMemory, "[memory] no memory for the KV cache: block of ",
                  config.block_size, " tokens=", readable(needs.kv_block_bytes),
                  ", free beside the weights=", readable(free_bytes), ": use a smaller model, or free memory");
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

/// The longest sequence, held against model and cache.
int32_t choose_length(const MemoryNeeds& needs, const EngineConfig& config, int64_t num_blocks) {
  const int64_t held = num_blocks * config.block_size;
  if (config.max_model_len) {
    const int64_t wanted_bytes = blocks_for(*config.max_model_len, config.block_size) * needs.kv_block_bytes;
    QUIRE_REQUIRE(*config.max_model_len <= held, ErrorKind::kInvalidArgument,
                  "[memory] max_model_len=", *config.max_model_len, " tokens needs ", readable(wanted_bytes),
                  " of KV cache but only ", readable(num_blocks * needs.kv_block_bytes),
                  " fit: set max_model_len <= ", held,
                  config.num_blocks_override ? ", or num_blocks_override >= " : ", or kv_cache_memory_bytes >= ",
                  config.num_blocks_override ? blocks_for(*config.max_model_len, config.block_size) : wanted_bytes);
    return *config.max_model_len;
  }
  if (held >= needs.max_positions) return needs.max_positions;
  log(LogLevel::kWarning,
      detail::join_message("[memory] max_model_len reduced from ", needs.max_positions, " to ", held,
                           " tokens, which is what the KV cache of ", readable(num_blocks * needs.kv_block_bytes),
                           " holds: set kv_cache_memory_bytes for more"));
  return static_cast<int32_t>(held);
}

}  // namespace

MemoryPlan plan_memory(const MemoryNeeds& needs, const EngineConfig& config) {
  QUIRE_CHECK(needs.kv_block_bytes > 0, "kv_block_bytes=", needs.kv_block_bytes);
  QUIRE_REQUIRE(
      config.max_model_len.value_or(0) <= needs.max_positions, ErrorKind::kInvalidArgument,
      "[memory] the model allows no sequence of that length: max_model_len=", config.max_model_len.value_or(0),
      ", expected=at most ", needs.max_positions, " (max_position_embeddings, rope scaling included)");
  const int64_t free_bytes = needs.available_bytes - needs.weight_bytes - needs.workspace_bytes;
  QUIRE_REQUIRE(free_bytes > 0, ErrorKind::kOutOfMemory,
                "[memory] the model does not fit: weights=", readable(needs.weight_bytes),
                ", workspace=", readable(needs.workspace_bytes), ", available=", readable(needs.available_bytes),
                ": use a smaller model, or free memory");
  const int64_t wanted_length = config.max_model_len.value_or(needs.max_positions);
  const int64_t num_blocks =
      std::min<int64_t>(choose_blocks(needs, config, wanted_length, free_bytes), std::numeric_limits<int32_t>::max());
  return {.weight_bytes = needs.weight_bytes,
          .kv_cache_bytes = num_blocks * needs.kv_block_bytes,
          .kv_bytes_per_token = needs.kv_block_bytes / config.block_size,
          .workspace_bytes = needs.workspace_bytes,
          .num_blocks = static_cast<int32_t>(num_blocks),
          .block_size = config.block_size,
          .max_model_len = choose_length(needs, config, num_blocks),
          .available_bytes = needs.available_bytes};
}

}  // namespace quire
