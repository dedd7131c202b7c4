#include "engine/open_model.h"

#include <string>
#include <utility>

#include "backend/registry.h"
#include "core/host.h"
#include "core/log.h"
#include "engine/memory_plan.h"
#include "runtime/kv_memory.h"
#include "runtime/runner.h"
#include "weights/dummy.h"
#include "weights/loader.h"

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

WeightSummary check(const OpenModel& model, std::optional<DType> dtype) {
  return model.checkpoint ? check_weights(model.folder, *model.checkpoint, dtype)
                          : check_dummy_weights(model.folder, dtype);
}

}  // namespace

ModelWeights load_weights(const OpenModel& model, Stream& stream, const LoadProgress& progress) {
  log(LogLevel::kInfo, describe_plan(model.description.memory, model.description.backend));
  if (!model.checkpoint) return load_dummy_weights(model.folder, model.weight_dtype, *model.backend, stream);
  return load_weights(model.folder, *model.checkpoint, model.weight_dtype, *model.backend, stream, progress);
}

OpenModel open_model(const EngineConfig& config) {
  config.validate();
  OpenModel model{.folder = read_model_folder(config.model)};
  if (config.load_format == "auto") model.checkpoint = Checkpoint::open(config.model);
  model.weight_dtype = dtype_from_name(config.dtype);
  const WeightSummary stored = check(model, std::nullopt);
  const WeightSummary held = model.weight_dtype ? check(model, model.weight_dtype) : stored;
  model.backend =
      create_backend(config.device, {.num_threads = config.num_threads, .deterministic = config.deterministic});
  model.dtype = model.kv_dtype = model.weight_dtype.value_or(stored.dtype);

  const Backend& backend = *model.backend;
  EngineConfig& resolved = model.config = config;
  resolved.device = device_of(backend, config.device);
  const bool is_gpu = !resolved.device.starts_with("cpu");
  resolved.max_num_batched_tokens =
      config.max_num_batched_tokens.value_or(is_gpu ? kGpuBatchedTokens : kCpuBatchedTokens);
  const ModelSpec& spec = model.folder.spec;
  const RunnerConfig runner = {.max_num_batched_tokens = *resolved.max_num_batched_tokens,
                               .max_num_seqs = config.max_num_seqs,
                               .max_model_len = config.max_model_len.value_or(spec.max_positions),
                               .max_logprobs = config.max_logprobs,
                               .block_size = config.block_size,
                               .dtype = model.dtype,
                               .kv_dtype = model.kv_dtype,
                               .record_graphs = !config.enforce_eager};
  const MemoryPlan memory =
      plan_memory({.weight_bytes = held.bytes,
                   .workspace_bytes = Runner::workspace_bytes(spec, backend, runner),
                   .kv_block_bytes = kv_bytes_per_block(spec, backend, model.kv_dtype, config.block_size),
                   .available_bytes = backend.available_memory(),
                   .total_bytes = backend.total_memory(),
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
  resolved.num_threads = backend.num_threads();
  model.description = {.model = info_of(model.folder, stored),
                       .memory = memory,
                       .backend = backend.name(),
                       .num_threads = resolved.num_threads};
  return model;
}

}  // namespace quire
