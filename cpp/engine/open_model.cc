#include "engine/open_model.h"

#include <utility>

#include "backend/registry.h"
#include "engine/memory_plan.h"
#include "runtime/kv_memory.h"
#include "runtime/runner.h"
#include "weights/dummy.h"
#include "weights/loader.h"

namespace quire {
namespace {

// Prompts are computed in chunks of so many tokens: enough for matrix products to reach their full speed on a CPU, few
// enough that running sequences wait no more than a fraction of a second.
constexpr int32_t kDefaultBatchedTokens = 512;

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

WeightSummary check(const OpenModel& model, std::optional<DType> dtype) {
  return model.checkpoint ? check_weights(model.folder, *model.checkpoint, dtype)
                          : check_dummy_weights(model.folder, dtype);
}

}  // namespace

ModelWeights load_weights(const OpenModel& model, Stream& stream) {
  if (!model.checkpoint) return load_dummy_weights(model.folder, model.weight_dtype, *model.backend, stream);
  return load_weights(model.folder, *model.checkpoint, model.weight_dtype, *model.backend, stream);
}

OpenModel open_model(const EngineConfig& config) {
  config.validate();
  OpenModel model{.folder = read_model_folder(config.model)};
  if (config.load_format == "auto") model.checkpoint = Checkpoint::open(config.model);
  model.weight_dtype = dtype_from_name(config.dtype);
  const WeightSummary stored = check(model, std::nullopt);
  const WeightSummary held = model.weight_dtype ? check(model, model.weight_dtype) : stored;
  model.backend = create_backend(config.device, config.num_threads);
  model.kv_dtype = model.weight_dtype.value_or(stored.dtype);

  EngineConfig& resolved = model.config = config;
  resolved.max_num_batched_tokens = config.max_num_batched_tokens.value_or(kDefaultBatchedTokens);
  const ModelSpec& spec = model.folder.spec;
  const MemoryPlan memory =
      plan_memory({.weight_bytes = held.bytes,
                   .workspace_bytes = Runner::workspace_bytes(spec, *resolved.max_num_batched_tokens,
                                                              config.max_model_len.value_or(spec.max_positions)),
                   .kv_block_bytes = kv_bytes_per_block(spec, *model.backend, model.kv_dtype, config.block_size),
                   .available_bytes = model.backend->available_memory(),
                   .max_positions = spec.max_positions},
                  config);
  if (resolved.tokenizer.empty()) resolved.tokenizer = resolved.model;
  if (resolved.device == "auto") resolved.device = "cpu";
  resolved.dtype = dtype_name(model.kv_dtype);
  resolved.max_model_len = memory.max_model_len;
  resolved.kv_cache_memory_bytes = memory.kv_cache_bytes;
  resolved.num_threads = model.backend->num_threads();
  model.description = {.model = info_of(model.folder, stored),
                       .memory = memory,
                       .backend = model.backend->name(),
                       .num_threads = resolved.num_threads};
  return model;
}

}  // namespace quire
