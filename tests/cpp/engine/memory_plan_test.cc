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

/// The same on a GPU of 24 GiB of which half a gibibyte is taken, in a host of 64 GiB.
MemoryNeeds on_a_gpu() {
  MemoryNeeds needs = seven_billion();
  needs.total_bytes = 24 * kGiB;
  needs.available_bytes = needs.total_bytes - kGiB / 2;
  needs.host_total_bytes = 64 * kGiB;
  needs.host_available_bytes = 60 * kGiB;
  needs.own_memory = true;
  return needs;
}

TEST(MemoryPlanOfGpu, the_cache_takes_all_that_the_share_leaves) {
  const MemoryPlan plan = plan_memory(on_a_gpu(), {});
  const int64_t left = 24 * kGiB * 9 / 10 - kGiB / 2 - 14 * kGiB - 100 * kMiB;
  EXPECT_EQ(plan.num_blocks, left / (8 * kMiB));
  EXPECT_EQ(plan.kv_cache_bytes, plan.num_blocks * 8 * kMiB);
  EXPECT_EQ(plan.max_model_len, 8192);
  EXPECT_EQ(plan.total_bytes, 24 * kGiB);
  EXPECT_EQ(plan_memory(on_a_gpu(), {.gpu_memory_utilization = 1.0}).num_blocks,
            (9 * kGiB + kGiB / 2 - 100 * kMiB) / (8 * kMiB));
}

TEST(MemoryPlanOfGpu, a_toy_does_not_get_millions_of_blocks) {
  MemoryNeeds needs = on_a_gpu();
  needs.kv_block_bytes = 256;
  EXPECT_EQ(plan_memory(needs, {}).num_blocks, 1 << 20);
}

TEST(MemoryPlanOfGpu, refuses_a_length_that_does_not_fit_with_the_share_that_would) {
  // vLLM's quick start: 8192 tokens of 512 KiB need 4 GiB where there are 3.71.
  MemoryNeeds needs = on_a_gpu();
  needs.weight_bytes = 24 * kGiB * 9 / 10 - kGiB / 2 - 100 * kMiB - 475 * 8 * kMiB - kMiB;
  Log log;
  EXPECT_EQ(
      failure(needs, {}, ErrorKind::kInvalidArgument),
      "[memory] max_model_len=8192 tokens (the model's own) needs 4.00 GiB of KV cache but only 3.71 GiB fit: set "
      "max_model_len <= 7600 (\"auto\": as long as fits), or gpu_memory_utilization >= 0.92");
  EXPECT_EQ(failure(needs, {.max_model_len = 8000}, ErrorKind::kInvalidArgument),
            "[memory] max_model_len=8000 tokens needs 3.91 GiB of KV cache but only 3.71 GiB fit: set max_model_len <= "
            "7600, or gpu_memory_utilization >= 0.91");
  EXPECT_EQ(plan_memory(needs, {.gpu_memory_utilization = 0.92}).max_model_len, 8192);
  EXPECT_EQ(log.lines, "");
  EXPECT_EQ(plan_memory(needs, {.fit_max_model_len = true}).max_model_len, 7600);
  EXPECT_EQ(log.lines,
            "[memory] max_model_len reduced from 8192 to 7600 tokens, which is what the KV cache of 3.71 GiB "
            "holds\n");
  needs.max_positions = 1 << 20;
  EXPECT_EQ(failure(needs, {}, ErrorKind::kInvalidArgument).find("gpu_memory_utilization"), std::string::npos)
      << "advised what cannot help";
}

TEST(MemoryPlanOfGpu, a_size_that_is_given_may_go_beyond_the_share) {
  EXPECT_EQ(plan_memory(on_a_gpu(), {.kv_cache_memory_bytes = 9 * kGiB}).kv_cache_bytes, 9 * kGiB);
  EXPECT_NE(failure(on_a_gpu(), {.kv_cache_memory_bytes = 10 * kGiB}, ErrorKind::kOutOfMemory).find("9.40 GiB"),
            std::string::npos);
  EXPECT_EQ(plan_memory(on_a_gpu(), {.max_model_len = 96, .num_blocks_override = 12}).num_blocks, 12);
  EXPECT_NE(failure(on_a_gpu(), {.max_model_len = 97, .num_blocks_override = 6}, ErrorKind::kInvalidArgument)
                .find("num_blocks_override >= 7"),
            std::string::npos);
}

TEST(MemoryPlanOfGpu, refuses_what_the_share_cannot_hold_and_says_what_it_is_a_share_of) {
  EXPECT_EQ(failure(on_a_gpu(), {.gpu_memory_utilization = 0.5}, ErrorKind::kOutOfMemory),
            "[memory] the model does not fit: weights=14.00 GiB, workspace=100.0 MiB, available=11.50 GiB (24.00 GiB x "
            "gpu_memory_utilization=0.5, less 512.0 MiB in use): free memory of the GPU, raise gpu_memory_utilization, "
            "or use a smaller model");
  MemoryNeeds busy = on_a_gpu();
  busy.available_bytes = kGiB;
  EXPECT_NE(failure(busy, {}, ErrorKind::kOutOfMemory).find("available=0 bytes"), std::string::npos);
}

TEST(MemoryPlanOfGpu, swap_space_is_what_was_asked_for_and_no_more_than_all_sequences_fill) {
  const MemoryPlan plan = plan_memory(on_a_gpu(), {});
  EXPECT_EQ(plan.num_swap_blocks, 512);
  EXPECT_EQ(plan.swap_space_bytes, 4 * kGiB);
  const MemoryPlan small = plan_memory(on_a_gpu(), {.max_model_len = 100, .max_num_seqs = 3});
  EXPECT_EQ(small.num_swap_blocks, 3 * 7);
  EXPECT_EQ(small.swap_space_bytes, 3 * 7 * 8 * kMiB);
  EXPECT_EQ(plan_memory(on_a_gpu(), {.swap_space_bytes = 0}).num_swap_blocks, 0);
  EXPECT_EQ(plan_memory(on_a_gpu(), {.swap_space_bytes = kMiB}).swap_space_bytes, 0) << "less than a block";
}

TEST(MemoryPlanOfGpu, swap_space_is_held_against_the_hosts_memory) {
  Log log;
  EXPECT_EQ(plan_memory(on_a_gpu(), {.swap_space_bytes = 25 * kGiB}).swap_space_bytes, 25 * kGiB);
  EXPECT_EQ(log.lines, "");
  EXPECT_EQ(plan_memory(on_a_gpu(), {.swap_space_bytes = 26 * kGiB}).swap_space_bytes, 26 * kGiB);
  EXPECT_EQ(log.lines,
            "[memory] the swap space may be too large: swap_space=26.00 GiB, memory of the host=64.00 GiB\n");
  EXPECT_EQ(failure(on_a_gpu(), {.swap_space_bytes = 45 * kGiB}, ErrorKind::kInvalidArgument),
            "[memory] the swap space is too large: swap_space=45.00 GiB, memory of the host=64.00 GiB, expected=at "
            "most 70 % of it");
  MemoryNeeds busy = on_a_gpu();
  busy.host_available_bytes = 3 * kGiB;
  EXPECT_EQ(failure(busy, {}, ErrorKind::kOutOfMemory),
            "[memory] the swap space does not fit: swap_space=4.00 GiB, memory of the host=64.00 GiB, available=3.00 "
            "GiB: lower swap_space, or free memory of the host");
}

TEST(MemoryPlan, has_no_swap_space_where_the_cache_is_in_the_hosts_memory) {
  EXPECT_EQ(plan_memory(seven_billion(), {}).num_swap_blocks, 0);
  EXPECT_EQ(plan_memory(seven_billion(), {}).swap_space_bytes, 0);
}

TEST(MemoryPlan, is_made_for_each_rank_out_of_what_they_share) {
  MemoryNeeds needs = seven_billion();
  needs.num_ranks = 2;
  EXPECT_EQ(plan_memory(needs, {}).kv_cache_bytes, 4 * kGiB) << "one sequence needs more than half of the default";
  needs.max_positions = 1024;
  EXPECT_EQ(plan_memory(needs, {}).kv_cache_bytes, 2 * kGiB);
  EXPECT_EQ(plan_memory(needs, {}).num_ranks, 2);
  EXPECT_EQ(plan_memory(needs, {.kv_cache_memory_bytes = 3 * kGiB}).kv_cache_bytes, 3 * kGiB);
  EXPECT_TRUE(describe_plan(plan_memory(needs, {}), "cpu (avx2), 2 ranks")
                  .starts_with("[memory] cpu (avx2), 2 ranks, each: weights 14.00 GiB,"));

  MemoryNeeds gpu = on_a_gpu();
  gpu.num_ranks = 2;
  EXPECT_EQ(failure(gpu, {.swap_space_bytes = 23 * kGiB}, ErrorKind::kInvalidArgument),
            "[memory] the swap space is too large: swap_space=46.00 GiB, memory of the host=64.00 GiB, expected=at "
            "most 70 % of it");
}

TEST(MemoryPlan, is_described_in_one_line) {
  EXPECT_EQ(describe_plan(plan_memory(on_a_gpu(), {}), "cuda:0 (A GPU, sm_90)"),
            "[memory] cuda:0 (A GPU, sm_90): weights 14.00 GiB, workspace 100.0 MiB, KV cache 7.00 GiB = 14336 tokens, "
            "max_model_len 8192, swap space 4.00 GiB; 23.50 GiB of 24.00 GiB were free");
  EXPECT_EQ(describe_plan(plan_memory(on_a_gpu(), {.swap_space_bytes = 0}), "cuda:0").find("swap"), std::string::npos);
}

}  // namespace
}  // namespace quire
