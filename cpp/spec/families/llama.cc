#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Llama 1 to 3, Yi. Source: transformers/models/llama/{configuration,modeling}_llama.py
ModelSpec llama(const HfConfig& config) {
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("hidden_size", kWidths);

  Layer layer;
  layer.attention = attention_shape(config, model.width, "num_attention_heads", "num_key_value_heads");
  layer.attention.qkv_bias = layer.attention.out_bias = config.boolean_or("attention_bias", false);
  layer.attention.positions = rope(config, layer.attention.head_dim);
  layer.ffn = {.width = config.integer("intermediate_size", kWidths),
               .act = activation(config, "hidden_act", "silu"),
               .bias = config.boolean_or("mlp_bias", false)};
  layer.attention_norm.eps = static_cast<float>(config.number_or("rms_norm_eps", 1e-6, kNormEps));
  layer.ffn_norm = model.final_norm = layer.attention_norm;

  model.layers.assign(config.integer("num_hidden_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", false);
  model.max_positions = max_positions(config, layer.attention.positions);
  return model;
}

}  // namespace quire::families
