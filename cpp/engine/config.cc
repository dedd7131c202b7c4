#include "quire/config.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/check.h"
#include "core/dtype.h"
#include "core/quote.h"

namespace quire {
namespace {

template <typename T>
void require_at_least(const char* field, const T& value, int64_t least) {
  QUIRE_REQUIRE(value >= least, ErrorKind::kInvalidArgument, "[config] value out of range: ", field, "=", value,
                ", expected=at least ", least);
}

template <typename T>
void require_at_least(const char* field, const std::optional<T>& value, int64_t least) {
  if (value) require_at_least(field, *value, least);
}

}  // namespace

void EngineConfig::validate() const {
  QUIRE_REQUIRE(!model.empty(), ErrorKind::kInvalidArgument, "[config] no model folder given: model=\"\"");
  constexpr std::array<int32_t, 5> kBlockSizes = {8, 16, 32, 64, 128};
  QUIRE_REQUIRE(std::find(kBlockSizes.begin(), kBlockSizes.end(), block_size) != kBlockSizes.end(),
                ErrorKind::kInvalidArgument, "[config] value out of range: block_size=", block_size,
                ", expected=8, 16, 32, 64 or 128");
  const auto type = dtype_from_name(dtype);
  QUIRE_REQUIRE(dtype == "auto" || type == DType::kFloat32 || type == DType::kBFloat16 || type == DType::kFloat16,
                ErrorKind::kInvalidArgument, "[config] unknown type: dtype=", in_quotes(dtype),
                ", expected=auto, float32, bfloat16, float16");
  QUIRE_REQUIRE(load_format == "auto" || load_format == "dummy", ErrorKind::kInvalidArgument,
                "[config] unknown format of weights: load_format=", in_quotes(load_format), ", expected=auto, dummy");
  require_at_least("tensor_parallel_size", tensor_parallel_size, 1);
  constexpr int32_t kMostRanks = 64;
  QUIRE_REQUIRE(tensor_parallel_size <= kMostRanks, ErrorKind::kInvalidArgument,
                "[config] value out of range: tensor_parallel_size=", tensor_parallel_size, ", expected=at most ",
                kMostRanks);
  // One token of prompt and one of output.
  require_at_least("max_model_len", max_model_len, 2);
  require_at_least("max_num_seqs", max_num_seqs, 1);
  require_at_least("max_num_batched_tokens", max_num_batched_tokens, 1);
  require_at_least("kv_cache_memory_bytes", kv_cache_memory_bytes, 1);
  require_at_least("swap_space_bytes", swap_space_bytes, 0);
  require_at_least("num_blocks_override", num_blocks_override, 1);
  QUIRE_REQUIRE(gpu_memory_utilization > 0.0 && gpu_memory_utilization <= 1.0, ErrorKind::kInvalidArgument,
                "[config] value out of range: gpu_memory_utilization=", gpu_memory_utilization,
                ", expected=above 0, at most 1");
  require_at_least("num_threads", num_threads, 0);
  require_at_least("max_logprobs", max_logprobs, 0);
  require_at_least("max_queued_requests", max_queued_requests, 1);
}

}  // namespace quire
