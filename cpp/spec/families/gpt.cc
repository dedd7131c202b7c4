#include <algorithm>
#include <cmath>
#include <optional>
#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

void require_decoder(const HfConfig& config) {
  require_boolean(config, "add_cross_attention", false);
}

/// Scores are divided by the root of a head's size, or by the size, and by the layer's number.
void set_attention_scale(const HfConfig& config, double scale, ModelSpec& model) {
  const bool by_layer = config.boolean_or("scale_attn_by_inverse_layer_idx", false);
  if (!config.boolean_or("scale_attn_weights", true)) scale = 1;
  for (size_t i = 0; i < model.layers.size(); ++i) {
    model.layers[i].attention.scale = by_layer ? scale / static_cast<double>(i + 1) : scale;
  }
}

ModelSpec gpt2_with(const HfConfig& config, Ffn::Act act) {
  require_decoder(config);
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer({"n_embd", "hidden_size"}, kWidths);

  Layer layer;
  const FieldNames heads = {"n_head", "num_attention_heads"};
  layer.attention = attention_shape(config, model.width, heads, heads);
  layer.attention.qkv_bias = layer.attention.out_bias = true;
  layer.attention.positions = LearnedPositions{
      .num_positions = config.integer({"n_positions", "max_position_embeddings", "n_ctx"}, kPositionCounts)};
  layer.ffn = {
      .width = config.integer_or("n_inner", 4 * model.width, kWidths), .act = act, .gated = false, .bias = true};
  layer.attention_norm = layer.ffn_norm = model.final_norm = layer_norm(config, "layer_norm_epsilon");
  model.layers.assign(config.integer({"n_layer", "num_hidden_layers"}, kLayerCounts), layer);
  set_attention_scale(config, 1 / std::sqrt(static_cast<double>(layer.attention.head_dim)), model);
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.max_positions = max_positions(config, layer.attention.positions);
  return model;
}

/// Beyond the trained length the slopes would have to shrink with every token.
int32_t jais_positions(const HfConfig& config) {
  const int32_t longest = max_positions(config, Alibi{});
  const std::optional<HfConfig> scaling = config.section("alibi_scaling");
  if (!scaling) return longest;
  scaling->number_or("factor", 1.0, {1.0, 1.0});
  return std::min(longest, scaling->integer_or("train_seq_len", longest, kPositionCounts));
}

}  // namespace

// Source: transformers/models/gpt2/{configuration,modeling}_gpt2.py
ModelSpec gpt2(const HfConfig& config) {
  return gpt2_with(config, activation(config, "activation_function", "gelu_new"));
}

// SantaCoder, StarCoder. Source: transformers/models/gpt_bigcode/{configuration,modeling}_gpt_bigcode.py
ModelSpec gpt_bigcode(const HfConfig& config) {
  ModelSpec model = gpt2_with(config, activation(config, "activation_function", "gelu_pytorch_tanh"));
  if (config.boolean_or("multi_query", true)) {
    model.for_attention([](Attention& attention) { attention.kv_heads = 1; });
  }
  return model;
}

// GPT-2 with ALiBi, a gated feed-forward part and scales that keep activations alike across widths (muP).
// Source: the published modeling_jais.py (jais-13b)
ModelSpec jais(const HfConfig& config) {
  const bool gated = config.string_or("activation_function", "gelu") == "swiglu";
  ModelSpec model = gpt2_with(config, gated ? Ffn::Act::kSilu : activation(config, "activation_function", "gelu"));
  if (gated) model.for_ffn([](Ffn& ffn) { ffn.gated = true; });
  const std::string positions = config.string_or("position_embedding_type", "learned");
  if (positions == "alibi") {
    model.for_attention([](Attention& attention) { attention.positions = Alibi{}; });
    model.max_positions = jais_positions(config);
  } else if (positions != "learned") {
    config.refuse(ErrorKind::kUnsupported, "position_embedding_type", "unknown positions", "alibi or learned");
  }
  const int32_t head_dim = model.layers.front().attention.head_dim;
  if (config.boolean_or({"mup_scale_qk_dot_by_d", "scale_qk_dot_by_d"}, false)) {
    set_attention_scale(config, 1.0 / head_dim, model);
  }
  const auto multiplier = [&](const FieldNames& names) {
    return static_cast<float>(config.number_or(names, 1.0, kMultipliers));
  };
  model.embed_scale = multiplier({"mup_embeddings_scale", "embeddings_scale"});
  model.logit_scale = config.has("width_scale") ? multiplier("width_scale")
                                                : multiplier("mup_output_alpha") * multiplier("mup_width_scale");
  return model;
}

// Source: transformers/models/gptj/{configuration,modeling}_gptj.py
ModelSpec gptj(const HfConfig& config) {
  ModelSpec model = gpt2(config);
  const int32_t head_dim = model.layers.front().attention.head_dim;
  const int32_t rotated = config.is_null("rotary_dim") ? head_dim : config.integer_or("rotary_dim", 64, {2, head_dim});
  if (rotated % 2 != 0) config.refuse(ErrorKind::kInvalidArgument, "rotary_dim", "out of range", "an even number");
  model.for_layers([&](Layer& layer) {
    layer.wiring = Wiring::kParallel;
    layer.attention.qkv_bias = layer.attention.out_bias = false;
    layer.attention.positions = Rope{.dim = rotated, .interleaved = true};
    layer.attention.scale = 0;
  });
  model.tied = config.boolean_or("tie_word_embeddings", false);
  model.head_bias = true;
  return model;
}

// GPT-NeoX, Pythia, Dolly. Source: transformers/models/gpt_neox/{configuration,modeling}_gpt_neox.py
ModelSpec gpt_neox(const HfConfig& config) {
  ModelSpec model = llama_with(config, {.rotated = 0.25});
  const bool bias = config.boolean_or("attention_bias", true);
  const bool parallel = config.boolean_or("use_parallel_residual", true);
  const Ffn ffn{.width = model.layers.front().ffn.width,
                .act = activation(config, "hidden_act", "gelu"),
                .gated = false,
                .bias = true};
  model.set_norms(layer_norm(config, "layer_norm_eps"));
  model.for_layers([&](Layer& layer) {
    if (parallel) layer.wiring = Wiring::kParallelTwoNorms;
    layer.attention.qkv_bias = layer.attention.out_bias = bias;
    layer.ffn = ffn;
  });
  return model;
}

// Source: transformers/models/opt/{configuration,modeling}_opt.py
ModelSpec opt(const HfConfig& config) {
  const bool before = config.boolean_or("do_layer_norm_before", true);
  const bool bias = config.boolean_or("enable_bias", true);
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("hidden_size", kWidths);
  model.embed_width = config.integer_or("word_embed_proj_dim", model.width, kWidths);

  Layer layer;
  layer.attention = attention_shape(config, model.width, "num_attention_heads", "num_attention_heads");
  layer.attention.qkv_bias = layer.attention.out_bias = bias;
  layer.attention.positions =
      LearnedPositions{.num_positions = config.integer("max_position_embeddings", kPositionCounts), .offset = 2};
  layer.ffn = {.width = config.integer("ffn_dim", kWidths),
               .act = activation(config, "activation_function", "relu"),
               .gated = false,
               .bias = bias};
  Norm norm{.kind = Norm::Kind::kLayer, .eps = 1e-5f, .bias = true};
  norm.weight = norm.bias = config.boolean_or("layer_norm_elementwise_affine", true);
  layer.attention_norm = layer.ffn_norm = model.final_norm = norm;
  if (!before) layer.wiring = Wiring::kPost;
  if (!before || config.boolean_or("_remove_final_layer_norm", false)) model.final_norm.kind = Norm::Kind::kNone;
  model.layers.assign(config.integer("num_hidden_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.max_positions = max_positions(config, layer.attention.positions);
  return model;
}

// Source: transformers/models/bloom/{configuration,modeling}_bloom.py
ModelSpec bloom(const HfConfig& config) {
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer({"hidden_size", "n_embed", "n_embd"}, kWidths);
  const FieldNames heads = {"n_head", "num_attention_heads"};

  Layer layer;
  layer.attention = attention_shape(config, model.width, heads, heads);
  layer.attention.qkv_bias = layer.attention.out_bias = true;
  layer.attention.positions = Alibi{};
  layer.ffn = {.width = 4 * model.width, .act = Ffn::Act::kGeluTanh, .gated = false, .bias = true};
  layer.attention_norm = layer.ffn_norm = layer_norm(config, "layer_norm_epsilon");
  if (config.boolean_or("apply_residual_connection_post_layernorm", false)) layer.wiring = Wiring::kNormedResidual;
  model.embed_norm = model.final_norm = layer.attention_norm;
  model.layers.assign(config.integer({"n_layer", "num_hidden_layers"}, kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.max_positions = max_positions(config, Alibi{});
  return model;
}

}  // namespace quire::families
