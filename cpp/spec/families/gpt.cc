#include <cmath>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Source: transformers/models/gpt2/{configuration,modeling}_gpt2.py
ModelSpec gpt2(const HfConfig& config) {
  if (config.boolean_or("add_cross_attention", false)) {
    config.refuse(ErrorKind::kUnsupported, "add_cross_attention", "not a decoder-only model", "false");
  }
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer({"n_embd", "hidden_size"}, kWidths);

  Layer layer;
  const FieldNames heads = {"n_head", "num_attention_heads"};
  layer.attention = attention_shape(config, model.width, heads, heads);
  layer.attention.qkv_bias = layer.attention.out_bias = true;
  layer.attention.positions = LearnedPositions{
      .num_positions = config.integer({"n_positions", "max_position_embeddings", "n_ctx"}, kPositionCounts)};
  layer.ffn = {.width = config.integer_or("n_inner", 4 * model.width, kWidths),
               .act = activation(config, "activation_function", "gelu_new"),
               .gated = false,
               .bias = true};
  layer.attention_norm = {.kind = Norm::Kind::kLayer,
                          .eps = static_cast<float>(config.number_or("layer_norm_epsilon", 1e-5, kNormEps)),
                          .bias = true};
  layer.ffn_norm = model.final_norm = layer.attention_norm;
  model.layers.assign(config.integer({"n_layer", "num_hidden_layers"}, kLayerCounts), layer);

  const double scale =
      config.boolean_or("scale_attn_weights", true) ? 1 / std::sqrt(static_cast<double>(layer.attention.head_dim)) : 1;
  const bool by_layer = config.boolean_or("scale_attn_by_inverse_layer_idx", false);
  for (size_t i = 0; i < model.layers.size(); ++i) {
    model.layers[i].attention.scale = by_layer ? scale / static_cast<double>(i + 1) : scale;
  }
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.max_positions = max_positions(config, layer.attention.positions);
  return model;
}

}  // namespace quire::families
