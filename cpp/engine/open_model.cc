#include "engine/open_model.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "backend/registry.h"
#include "core/check.h"
#include "core/host.h"
#include "engine/memory_plan.h"
#include "runtime/kv_memory.h"
#include "runtime/runner.h"
#include "weights/dummy.h"
#include "weights/loader.h"
#include "weights/shard.h"

namespace quire {
namespace {

// Prompts are computed in chunks of so many tokens: enough for matrix products to reach their full speed, few enough
// that running sequences wait no more than a fraction of a second. vLLM's on large GPUs is 8192, too.
constexpr int32_t kCpuBatchedTokens = 512;
constexpr int32_t kGpuBatchedTokens = 8192;

ModelInfo info_of(const ModelFolder& folder, const WeightSummary& stored) {
  const ModelSpec& spec = folder.spec;
  ModelInfo info{.architecture = spec.architecture,
                 .family = spec.family,
                 .dtype = std::string(dtype_name(stored.dtype)),
                 .num_parameters = stored.num_parameters,
                 .weight_bytes = stored.bytes,
                 .vocab_size = spec.vocab,
                 .num_layers = static_cast<int32_t>(spec.layers.size()),
                 .hidden_size = spec.width,
                 .max_position_embeddings = spec.max_positions,
                 .eos_token_ids = folder.generation.eos_token_ids,
                 .bos_token_id = folder.generation.bos_token_id};
  if (!spec.layers.empty()) {
    const Attention& attention = spec.layers.front().attention;
    info.num_heads = attention.heads;
    info.num_kv_heads = attention.kv_heads;
    info.head_dim = attention.head_dim;
  }
  return info;
}

/// "cuda:0" of "cuda:0 (NVIDIA H200, sm_90)"; a CPU's instruction set is named only where the user has named one.
std::string device_of(const Backend& backend, const std::string& asked_for) {
  const std::string name = backend.name();
  const std::string device = name.substr(0, name.find(' '));
  return device == "cpu" && asked_for != "auto" ? asked_for : device;
}

WeightSummary check(const OpenModel& model, std::optional<DType> dtype, Rank rank = {}) {
  return model.checkpoint ? check_weights(model.folder, *model.checkpoint, dtype, rank)
                          : check_dummy_weights(model.folder, dtype, rank);
}

/// What runs a model, for people.
std::string name_of(const std::vector<std::unique_ptr<Backend>>& backends) {
  const std::string first = backends.front()->name();
  if (backends.size() == 1) return first;
  return detail::join_message(first, ", ", backends.size(), " ranks");
}

/// Of several GPUs the one that can give least.
const Backend& scarcest(const std::vector<std::unique_ptr<Backend>>& backends, double utilization) {
  const auto budget = [&](const std::unique_ptr<Backend>& backend) {
    const int64_t total = backend->total_memory();
    return utilization * static_cast<double>(total) - static_cast<double>(total - backend->available_memory());
  };
  return **std::ranges::min_element(backends, {}, budget);
}

/// RunnerConfig::rows_per_slice of ranks whose devices may differ.
int32_t fewest_rows_per_slice(const ModelSpec& spec, const std::vector<std::unique_ptr<Backend>>& backends,
                              const RunnerConfig& config) {
  if (backends.size() == 1) return 0;
  int32_t rows = std::numeric_limits<int32_t>::max();
  for (const auto& backend : backends) rows = std::min(rows, Runner::rows_per_slice(spec, *backend, config));
  return rows;
}

}  // namespace

OpenModel open_model(const EngineConfig& config) {
  config.validate();
  OpenModel model{.folder = read_model_folder(config.model)};
  const Rank rank{.num_ranks = config.tensor_parallel_size};  // none has more to hold than the first
  const ModelSpec spec = shard_of(model.folder.spec, rank);
  if (config.load_format == "auto") model.checkpoint = Checkpoint::open(config.model);
  model.weight_dtype = dtype_from_name(config.dtype);
  const WeightSummary stored = check(model, std::nullopt);
  const WeightSummary held = model.weight_dtype || rank.num_ranks > 1 ? check(model, model.weight_dtype, rank) : stored;
  model.backends = create_backends(
      config.device, {.num_threads = config.num_threads, .deterministic = config.deterministic}, rank.num_ranks);
  model.dtype = model.kv_dtype = model.weight_dtype.value_or(stored.dtype);

  const Backend& backend = *model.backends.front();
  EngineConfig& resolved = model.config = config;
  resolved.device = device_of(backend, config.device);
  const bool is_gpu = !resolved.device.starts_with("cpu");
  resolved.max_num_batched_tokens =
      config.max_num_batched_tokens.value_or(is_gpu ? kGpuBatchedTokens : kCpuBatchedTokens);
  RunnerConfig runner = {.max_num_batched_tokens = *resolved.max_num_batched_tokens,
                         .max_num_seqs = config.max_num_seqs,
                         .max_model_len = config.max_model_len.value_or(spec.max_positions),
                         .max_logprobs = config.max_logprobs,
                         .block_size = config.block_size,
                         .dtype = model.dtype,
                         .kv_dtype = model.kv_dtype,
                         .record_graphs = !config.enforce_eager};
  runner.rows_per_slice = model.rows_per_slice = fewest_rows_per_slice(spec, model.backends, runner);
  const Backend& least = scarcest(model.backends, config.gpu_memory_utilization);
  const MemoryPlan memory = plan_memory(
      {.num_ranks = rank.num_ranks,
       .weight_bytes = held.bytes,
       .workspace_bytes = Runner::workspace_bytes(spec, backend, runner) + backend.connection_bytes(rank.num_ranks),
       .kv_block_bytes = kv_bytes_per_block(spec, backend, model.kv_dtype, config.block_size),
       // The host's is all ranks'.
       .available_bytes = least.available_memory() / (is_gpu ? 1 : rank.num_ranks),
       .total_bytes = least.total_memory() / (is_gpu ? 1 : rank.num_ranks),
       .host_available_bytes = available_host_memory(),
       .host_total_bytes = total_host_memory(),
       .own_memory = is_gpu,
       .max_positions = spec.max_positions},
      config);
  if (resolved.tokenizer.empty()) resolved.tokenizer = resolved.model;
  resolved.dtype = dtype_name(model.dtype);
  resolved.max_model_len = memory.max_model_len;
  resolved.kv_cache_memory_bytes = memory.kv_cache_bytes;
  resolved.swap_space_bytes = memory.swap_space_bytes;
  resolved.num_threads = 0;
  for (const auto& one : model.backends) resolved.num_threads += one->num_threads();
  model.description = {.model = info_of(model.folder, stored),
                       .memory = memory,
                       .backend = name_of(model.backends),
                       .num_threads = resolved.num_threads};
  return model;
}

}  // namespace quire
