#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// ChatGLM2, ChatGLM3 and GLM-4-9B. Source: the published modeling_chatglm.py (chatglm2-6b, chatglm3-6b, glm-4-9b)
ModelSpec chatglm(const HfConfig& config) {
  require_boolean(config, "interleaved_qkv", false);
  require_boolean(config, "position_encoding_2d", false);  // ChatGLM 1, of the same name
  ModelSpec model;
  model.vocab = config.integer({"padded_vocab_size", "vocab_size"}, kVocabSizes);
  model.width = config.integer("hidden_size", kWidths);

  Layer layer;
  const bool bias = config.boolean_or("add_bias_linear", false);
  Attention& attention = layer.attention;
  attention.heads = attention.kv_heads = config.integer("num_attention_heads", kHeadCounts);
  if (config.boolean_or("multi_query_attention", false)) {
    attention.kv_heads = config.integer("multi_query_group_num", kHeadCounts);
    // As many groups as heads would be stored in another order than heads without groups are.
    if (attention.heads % attention.kv_heads != 0 || (attention.kv_heads == attention.heads && attention.heads > 1)) {
      config.refuse(ErrorKind::kInvalidArgument, "multi_query_group_num", "out of range",
                    "a smaller divisor of the number of attention heads, " + std::to_string(attention.heads));
    }
  }
  attention.head_dim = config.has("kv_channels") ? config.integer("kv_channels", kHeadDims)
                                                 : even_head_dim(config, model.width, "num_attention_heads");
  attention.qkv_bias = bias || config.boolean_or("add_qkv_bias", false);
  attention.out_bias = bias;
  const double ratio = config.number_or("rope_ratio", 1.0, kMultipliers);
  attention.positions = Rope{.dim = attention.head_dim / 4 * 2,
                             .base = 10000.0 * ratio,
                             .interleaved = config.boolean_or("original_rope", true)};
  layer.ffn = {.width = config.integer("ffn_hidden_size", kWidths), .bias = bias};
  const bool rms = config.boolean_or("rmsnorm", true);
  layer.attention_norm = layer.ffn_norm =
      rms ? rms_norm(config, "layernorm_epsilon", 1e-5) : layer_norm(config, "layernorm_epsilon");
  if (config.boolean_or("apply_residual_connection_post_layernorm", false)) layer.wiring = Wiring::kNormedResidual;
  if (config.boolean_or("post_layer_norm", true)) {
    model.final_norm = layer.attention_norm;
  } else {
    model.final_norm.kind = Norm::Kind::kNone;
  }
  model.layers.assign(config.integer({"num_layers", "num_hidden_layers"}, kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", false);
  model.max_positions = max_positions(config, attention.positions);
  return model;
}

// Source: transformers/models/glm4/{configuration,modeling}_glm4.py
ModelSpec glm4(const HfConfig& config) {
  ModelSpec model = llama_with(config, {.rotated = 0.5});
  model.interleave_rope();
  model.for_layers([&](Layer& layer) {
    layer.attention.out_bias = false;
    layer.attention_out_norm = layer.ffn_out_norm = layer.attention_norm;
  });
  return model;
}

}  // namespace quire::families
