#include "engine/memory_plan.h"

#include <gtest/gtest.h>

#include <string>

#include "core/log.h"
#include "quire/error.h"

namespace quire {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kMiB = int64_t{1} << 20;

/// A 7B model as in vLLM's quick start: 512 KiB of keys and values per token.
MemoryNeeds seven_billion() {
  return {.weight_bytes = 14 * kGiB,
          .workspace_bytes = 100 * kMiB,
          .kv_block_bytes = 8 * kMiB,
          .available_bytes = 64 * kGiB,
          .max_positions = 8192};
}

struct Log {
  std::string lines;
  Log() {
    set_log_sink([this](LogLevel, std::string_view line) { lines += std::string(line) + "\n"; });
  }
  ~Log() { set_log_sink({}); }
};

std::string failure(const MemoryNeeds& needs, const EngineConfig& config, ErrorKind kind) {
  try {
    plan_memory(needs, config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  ADD_FAILURE() << "the plan was accepted";
  return "";
}

TEST(MemoryPlan, gives_a_small_model_room_for_sixteen_sequences) {
  MemoryNeeds needs = seven_billion();
  needs.kv_block_bytes = 16 * 1024;
  needs.max_positions = 1000;
  const MemoryPlan plan = plan_memory(needs, {});
  EXPECT_EQ(plan.num_blocks, 16 * 63);
  EXPECT_EQ(plan.kv_cache_bytes, 16 * 63 * 16 * 1024);
  EXPECT_EQ(plan.kv_bytes_per_token, 1024);
  EXPECT_EQ(plan.max_model_len, 1000);
  EXPECT_EQ(plan_memory(needs, {.max_num_seqs = 3}).num_blocks, 3 * 63);
}

TEST(MemoryPlan, stays_within_four_gigabytes_unless_one_sequence_needs_more) {
  EXPECT_EQ(plan_memory(seven_billion(), {}).kv_cache_bytes, 4 * kGiB);
  MemoryNeeds needs = seven_billion();
  needs.max_positions = 16384;
  EXPECT_EQ(plan_memory(needs, {}).kv_cache_bytes, 8 * kGiB);
  EXPECT_EQ(plan_memory(needs, {}).max_model_len, 16384);
}

TEST(MemoryPlan, takes_at_most_forty_percent_of_what_is_left_and_says_that_the_length_shrank) {
  MemoryNeeds needs = seven_billion();
  needs.available_bytes = needs.weight_bytes + needs.workspace_bytes + 5 * kGiB;
  Log log;
  const MemoryPlan plan = plan_memory(needs, {});
  EXPECT_EQ(plan.kv_cache_bytes, 2 * kGiB);
  EXPECT_EQ(plan.max_model_len, 4096);
  EXPECT_NE(log.lines.find("max_model_len reduced from 8192 to 4096"), std::string::npos) << log.lines;
  EXPECT_EQ(log.lines.find('\n'), log.lines.size() - 1) << "more than one line";
}

TEST(MemoryPlan, says_nothing_where_nothing_was_reduced) {
  Log log;
  plan_memory(seven_billion(), {});
  EXPECT_EQ(log.lines, "");
}

TEST(MemoryPlan, refuses_a_length_that_the_cache_cannot_hold_and_names_both_ways_out) {
  MemoryNeeds needs = seven_billion();
  needs.available_bytes = needs.weight_bytes + needs.workspace_bytes + 5 * kGiB;
  EXPECT_EQ(failure(needs, {.max_model_len = 7600}, ErrorKind::kInvalidArgument),
            "[memory] max_model_len=7600 tokens needs 3.71 GiB of KV cache but only 2.00 GiB fit: set max_model_len <= "
            "4096, or kv_cache_memory_bytes >= 3984588800");
  EXPECT_EQ(plan_memory(needs, {.max_model_len = 4096}).max_model_len, 4096);
  EXPECT_EQ(plan_memory(needs, {.max_model_len = 7600, .kv_cache_memory_bytes = 3984588800}).max_model_len, 7600);
}

TEST(MemoryPlan, refuses_a_length_beyond_the_model_and_names_both) {
  const std::string message = failure(seven_billion(), {.max_model_len = 8193}, ErrorKind::kInvalidArgument);
  EXPECT_NE(message.find("max_model_len=8193"), std::string::npos) << message;
  EXPECT_NE(message.find("8192"), std::string::npos) << message;
}

TEST(MemoryPlan, obeys_the_cache_size_and_above_it_the_block_count) {
  EngineConfig config{.kv_cache_memory_bytes = 100 * kMiB + 1};
  EXPECT_EQ(plan_memory(seven_billion(), config).num_blocks, 12);
  EXPECT_EQ(plan_memory(seven_billion(), config).max_model_len, 192);
  config.num_blocks_override = 7;
  EXPECT_EQ(plan_memory(seven_billion(), config).num_blocks, 7);
  config.max_model_len = 113;
  EXPECT_NE(failure(seven_billion(), config, ErrorKind::kInvalidArgument).find("num_blocks_override >= 8"),
            std::string::npos);
}

TEST(MemoryPlan, refuses_what_the_machine_cannot_hold) {
  MemoryNeeds needs = seven_billion();
  EXPECT_NE(failure(needs, {.kv_cache_memory_bytes = 60 * kGiB}, ErrorKind::kOutOfMemory).find("49.90 GiB"),
            std::string::npos);
  EXPECT_NE(failure(needs, {.kv_cache_memory_bytes = 1}, ErrorKind::kInvalidArgument).find("kv_cache_memory_bytes=1"),
            std::string::npos);
  needs.available_bytes = 14 * kGiB;
  EXPECT_NE(failure(needs, {}, ErrorKind::kOutOfMemory).find("weights=14.00 GiB"), std::string::npos);
  needs.available_bytes = needs.weight_bytes + needs.workspace_bytes + kMiB;
  EXPECT_NE(failure(needs, {}, ErrorKind::kOutOfMemory).find("no memory for the KV cache"), std::string::npos);
}

}  // namespace
}  // namespace quire
