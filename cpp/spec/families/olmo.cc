#include <cmath>
#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

double clip_qkv(const HfConfig& config) {
  return config.number_or("clip_qkv", 0.0, {0.0, kMultipliers.max});
}

/// The norm of an original OLMo folder.
Norm original_norm(const HfConfig& config) {
  const std::string type = config.string_or("layer_norm_type", "default");
  const bool affine = config.boolean_or("layer_norm_with_affine", true);
  Norm norm{.eps = 1e-5f, .weight = affine};
  if (type == "default" || type == "low_precision") {
    norm.kind = Norm::Kind::kLayer;
    norm.bias = affine && config.boolean_or({"bias_for_layer_norm", "include_bias"}, false);
  } else if (type != "rms") {
    config.refuse(ErrorKind::kUnsupported, "layer_norm_type", "unknown norm", "default, low_precision or rms");
  }
  return norm;
}

/// The gated activation goes by a name of its own and counts both halves.
Ffn original_ffn(const HfConfig& config, int32_t width, bool bias) {
  const int32_t hidden = config.has("mlp_hidden_size")
                             ? config.integer("mlp_hidden_size", {2, kWidths.max})
                             : config.integer_or("mlp_ratio", 4, {1, 4 * kWidths.max / width}) * width;
  if (config.string_or("activation_type", "swiglu") == "swiglu") return {.width = hidden / 2, .bias = bias};
  return {.width = hidden, .act = activation(config, "activation_type", "gelu"), .gated = false, .bias = bias};
}

}  // namespace

// In transformers' layout. Source: transformers/models/olmo/{configuration,modeling}_olmo.py
ModelSpec olmo(const HfConfig& config) {
  ModelSpec model = llama(config);
  model.set_norms({.kind = Norm::Kind::kLayer, .eps = 1e-5f, .weight = false});
  model.for_attention([clip = clip_qkv(config)](Attention& attention) { attention.clip_qkv = clip; });
  return model;
}

// In ai2-olmo's layout. Source: olmo/{config,model}.py of ai2-olmo 0.3
ModelSpec olmo_original(const HfConfig& config) {
  require_string(config, "block_type", "sequential");
  require_boolean(config, "attention_layer_norm", false);
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  const int32_t rows = config.integer_or("embedding_size", model.vocab, {model.vocab, kVocabSizes.max});
  model.padding_rows = rows - model.vocab;
  model.width = config.integer("d_model", kWidths);
  const bool bias = config.boolean_or("include_bias", false);

  Layer layer;
  Attention& attention = layer.attention;
  attention = attention_shape(config, model.width, "n_heads", "n_kv_heads");
  if (config.boolean_or("multi_query_attention", false)) attention.kv_heads = 1;
  attention.qkv_bias = attention.out_bias = bias;
  attention.clip_qkv = clip_qkv(config);
  if (config.boolean_or("alibi", false)) {
    attention.positions = Alibi{.max_bias = config.number_or("alibi_bias_max", 8.0, kMultipliers)};
  } else if (config.boolean_or("rope", true)) {
    attention.positions = rope(config, attention.head_dim);
  } else {
    attention.positions = LearnedPositions{.num_positions = config.integer("max_sequence_length", kPositionCounts)};
  }
  layer.ffn = original_ffn(config, model.width, bias);
  layer.attention_norm = layer.ffn_norm = model.final_norm = original_norm(config);
  model.layers.assign(config.integer("n_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("weight_tying", true);
  if (config.boolean_or("scale_logits", false)) model.logit_scale = 1 / std::sqrt(static_cast<float>(model.width));
  model.max_positions = max_positions(config, attention.positions);
  return model;
}

// Norms stand behind each part, not before it. Source: transformers/models/olmo2/{configuration,modeling}_olmo2.py
ModelSpec olmo2(const HfConfig& config) {
  ModelSpec model = llama(config);
  model.for_layers([](Layer& layer) {
    layer.attention.qk_norm = Attention::QkNorm::kFull;
    layer.attention.qk_norm_kind = layer.attention_norm;
    layer.attention_out_norm = layer.ffn_out_norm = layer.attention_norm;
    layer.attention_norm.kind = layer.ffn_norm.kind = Norm::Kind::kNone;
  });
  return model;
}

}  // namespace quire::families
