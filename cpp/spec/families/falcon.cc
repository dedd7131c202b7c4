#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// The first folders of Falcon-40B say only how many kv heads there are.
bool has_new_decoder(const HfConfig& config) {
  return config.boolean_or("new_decoder_architecture",
                           config.has("n_head_kv") && config.string_or("model_type", "") == "RefinedWeb");
}

int32_t num_kv_heads(const HfConfig& config, int32_t heads, bool new_decoder) {
  if (new_decoder) return config.integer_or({"num_kv_heads", "n_head_kv"}, heads, kHeadCounts);
  return config.boolean_or("multi_query", true) ? 1 : heads;
}

}  // namespace

// Falcon, and RefinedWeb as it was first called. Source: transformers/models/falcon/{configuration,modeling}_falcon.py
ModelSpec falcon(const HfConfig& config) {
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer({"hidden_size", "n_embed"}, kWidths);
  const FieldNames heads = {"num_attention_heads", "n_head"};
  const bool new_decoder = has_new_decoder(config);
  const bool bias = config.boolean_or("bias", false);

  Layer layer;
  Attention& attention = layer.attention;
  attention = attention_shape(config, model.width, heads, heads);
  attention.kv_heads = num_kv_heads(config, attention.heads, new_decoder);
  if (attention.heads % attention.kv_heads != 0) {
    config.refuse(ErrorKind::kInvalidArgument, {"num_kv_heads", "n_head_kv"}, "out of range",
                  "a divisor of the number of attention heads, " + std::to_string(attention.heads));
  }
  attention.qkv_bias = attention.out_bias = bias;
  if (config.boolean_or("alibi", false)) {
    attention.positions = Alibi{.scaled = true};
  } else {
    attention.positions = rope(config, attention.head_dim);
  }
  layer.ffn = {.width = config.integer_or({"ffn_hidden_size", "ffn_dim"}, 4 * model.width, kWidths),
               .act = activation(config, "activation", "gelu"),
               .gated = false,
               .bias = bias};
  layer.attention_norm = layer.ffn_norm = model.final_norm = layer_norm(config, "layer_norm_epsilon");
  if (new_decoder) {
    const bool two = config.integer_or("num_ln_in_parallel_attn", 2, {1, 2}) == 2;
    layer.wiring = two ? Wiring::kParallelTwoNorms : Wiring::kParallel;
  } else if (config.boolean_or("parallel_attn", true)) {
    layer.wiring = Wiring::kParallel;
  }
  model.layers.assign(config.integer({"num_hidden_layers", "n_layer"}, kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.max_positions = max_positions(config, attention.positions);
  return model;
}

}  // namespace quire::families
