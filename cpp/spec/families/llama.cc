#include <optional>
#include <string>
#include <variant>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

/// What many families are told as a difference from.
ModelSpec llama_with(const HfConfig& config, const RopeDefaults& defaults) {
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("hidden_size", kWidths);

  Layer layer;
  layer.attention = attention_shape(config, model.width, "num_attention_heads", "num_key_value_heads");
  layer.attention.qkv_bias = layer.attention.out_bias = config.boolean_or({"attention_bias", "bias"}, false);
  layer.attention.positions = rope(config, layer.attention.head_dim, defaults);
  layer.ffn = {.width = config.integer("intermediate_size", kWidths),
               .act = activation(config, "hidden_act", "silu"),
               .bias = config.boolean_or("mlp_bias", false)};
  layer.attention_norm = layer.ffn_norm = model.final_norm = rms_norm(config, "rms_norm_eps");

  model.layers.assign(config.integer("num_hidden_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", false);
  model.max_positions = max_positions(config, layer.attention.positions);
  return model;
}

// Llama 1 to 3, Yi, Aquila, Xverse. Source: transformers/models/llama/{configuration,modeling}_llama.py
ModelSpec llama(const HfConfig& config) {
  return llama_with(config, {});
}

// InternLM 1 and 2. Source: the published modeling_internlm.py (internlm-7b) and modeling_internlm2.py (internlm2-7b)
ModelSpec internlm(const HfConfig& config) {
  ModelSpec model = llama(config);
  const bool bias = config.boolean_or("bias", true);
  std::optional<double> base;
  // InternLM 1 has its rope's parameters here. "dynamic" differs beyond max_position_embeddings only, which is the
  // longest sequence.
  if (const std::optional<HfConfig> rotary = config.section("rotary")) {
    if (rotary->string_or("type", "origin") != "dynamic") require_string(*rotary, "type", "origin");
    rotary->number_or("scaling_factor", 1.0, {1.0, 1.0});
    base = rotary->number("base", kRopeBases);
  }
  model.for_attention([&](Attention& attention) {
    attention.qkv_bias = attention.out_bias = bias;
    if (base) std::get<Rope>(attention.positions).base = *base;
  });
  return model;
}

// Source: the published modeling_decilm.py (DeciLM-7B)
ModelSpec decilm(const HfConfig& config) {
  // The later models of this name leave parts of layers out.
  if (config.has("block_configs")) {
    config.refuse(ErrorKind::kUnsupported, "block_configs", "layers of many kinds", "num_key_value_heads_per_layer");
  }
  ModelSpec model = llama(config);
  constexpr const char* kField = "num_key_value_heads_per_layer";
  const std::vector<int32_t> heads = config.integers(kField, kHeadCounts);
  if (heads.size() != model.layers.size()) {
    config.refuse(ErrorKind::kInvalidArgument, kField, "wrong length " + std::to_string(heads.size()),
                  "one for each of " + std::to_string(model.layers.size()) + " layers");
  }
  for (size_t i = 0; i < heads.size(); ++i) {
    Attention& attention = model.layers[i].attention;
    if (attention.heads % heads[i] != 0) {
      config.refuse(ErrorKind::kInvalidArgument, kField, "out of range: " + std::to_string(heads[i]),
                    "divisors of the number of attention heads, " + std::to_string(attention.heads));
    }
    attention.kv_heads = heads[i];
  }
  return model;
}

// Source: the published modeling_orion.py (Orion-14B)
ModelSpec orion(const HfConfig& config) {
  ModelSpec model = llama(config);
  model.set_norms(layer_norm(config, "rms_norm_eps"));
  return model;
}

// Source: transformers/models/granite/{configuration,modeling}_granite.py
ModelSpec granite(const HfConfig& config) {
  ModelSpec model = llama(config);
  const auto multiplier = [&](const char* name) { return config.number_or(name, 1.0, kMultipliers); };
  model.embed_scale = static_cast<float>(multiplier("embedding_multiplier"));
  model.logit_scale = static_cast<float>(1 / multiplier("logits_scaling"));
  model.for_layers([&](Layer& layer) {
    layer.attention.scale = multiplier("attention_multiplier");
    layer.residual_scale = static_cast<float>(multiplier("residual_multiplier"));
  });
  return model;
}

// The language part of LLaVA; images are not read. Its config names only what differs from a Llama of 7 B parameters.
// Source: transformers/models/llava/configuration_llava.py
ModelSpec llava(const HfConfig& config) {
  const std::optional<HfConfig> text = config.section("text_config");
  if (!text) config.refuse(ErrorKind::kInvalidArgument, "text_config", "missing field", "the language model's config");
  require_string(*text, "model_type", "llama");
  return llama(text->with_defaults({{"vocab_size", 32000},
                                    {"hidden_size", 4096},
                                    {"intermediate_size", 11008},
                                    {"num_hidden_layers", 32},
                                    {"num_attention_heads", 32},
                                    {"max_position_embeddings", 2048}}));
}

}  // namespace quire::families
