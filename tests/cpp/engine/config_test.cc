#include "quire/config.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "quire/error.h"

namespace quire {
namespace {

struct Case {
  std::string field;
  EngineConfig config;
};

TEST(EngineConfig, accepts_every_field_at_its_limit) {
  const std::vector<EngineConfig> rows = {
      {.model = "m"},
      {.model = "m", .tensor_parallel_size = 64},
      {.model = "m", .dtype = "float32"},
      {.model = "m", .dtype = "float"},
      {.model = "m", .dtype = "bf16"},
      {.model = "m", .dtype = "half"},
      {.model = "m", .max_model_len = 2},
      {.model = "m", .block_size = 8},
      {.model = "m", .block_size = 128},
      {.model = "m", .max_num_seqs = 1},
      {.model = "m", .max_num_batched_tokens = 1},
      {.model = "m", .gpu_memory_utilization = 1.0},
      {.model = "m", .gpu_memory_utilization = 1e-9},
      {.model = "m", .kv_cache_memory_bytes = 1},
      {.model = "m", .num_blocks_override = 1},
      {.model = "m", .seed = std::numeric_limits<int64_t>::min()},
      {.model = "m", .max_logprobs = 0},
      {.model = "m", .max_queued_requests = 1},
  };
  for (const EngineConfig& config : rows) EXPECT_NO_THROW(config.validate());
}

TEST(EngineConfig, refuses_every_field_beyond_its_limit_by_name_and_value) {
  const std::vector<Case> rows = {
      {"model=\"\"", {}},
      {"tensor_parallel_size=0", {.model = "m", .tensor_parallel_size = 0}},
      {"tensor_parallel_size=65", {.model = "m", .tensor_parallel_size = 65}},
      {"dtype='int8'", {.model = "m", .dtype = "int8"}},
      {"dtype=''", {.model = "m", .dtype = ""}},
      {"max_model_len=1", {.model = "m", .max_model_len = 1}},
      {"block_size=0", {.model = "m", .block_size = 0}},
      {"block_size=-16", {.model = "m", .block_size = -16}},
      {"block_size=24", {.model = "m", .block_size = 24}},
      {"block_size=256", {.model = "m", .block_size = 256}},
      {"max_num_seqs=0", {.model = "m", .max_num_seqs = 0}},
      {"max_num_batched_tokens=0", {.model = "m", .max_num_batched_tokens = 0}},
      {"gpu_memory_utilization=0", {.model = "m", .gpu_memory_utilization = 0.0}},
      {"gpu_memory_utilization=-0.1", {.model = "m", .gpu_memory_utilization = -0.1}},
      {"gpu_memory_utilization=1.01", {.model = "m", .gpu_memory_utilization = 1.01}},
      {"gpu_memory_utilization=nan",
       {.model = "m", .gpu_memory_utilization = std::numeric_limits<double>::quiet_NaN()}},
      {"kv_cache_memory_bytes=0", {.model = "m", .kv_cache_memory_bytes = 0}},
      {"swap_space_bytes=-1", {.model = "m", .swap_space_bytes = -1}},
      {"num_blocks_override=0", {.model = "m", .num_blocks_override = 0}},
      {"num_threads=-1", {.model = "m", .num_threads = -1}},
      {"max_logprobs=-1", {.model = "m", .max_logprobs = -1}},
      {"max_queued_requests=0", {.model = "m", .max_queued_requests = 0}},
  };
  for (const auto& [field, config] : rows) {
    try {
      config.validate();
      ADD_FAILURE() << field << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find(field), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace quire
