#include <cmath>
#include <optional>
#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// A config may leave a section out, all of its fields having defaults.
HfConfig section_or_empty(const HfConfig& config, const char* name) {
  std::optional<HfConfig> section = config.section(name);
  return section ? *section : HfConfig(Json(Json::Object{}), config.file());
}

double clip_qkv(const HfConfig& attention) {
  return attention.number_or("clip_qkv", 0.0, {0.0, kMultipliers.max});
}

int32_t mpt_kv_heads(const HfConfig& fields, int32_t heads) {
  const std::string type = fields.string_or("attn_type", "multihead_attention");
  if (type == "multihead_attention") return heads;
  if (type == "multiquery_attention") return 1;
  if (type != "grouped_query_attention") {
    fields.refuse(ErrorKind::kUnsupported, "attn_type", "unknown kind of attention",
                  "multihead_attention, multiquery_attention or grouped_query_attention");
  }
  const int32_t kv_heads = fields.integer("kv_n_heads", kHeadCounts);
  if (heads % kv_heads != 0) {
    fields.refuse(ErrorKind::kInvalidArgument, "kv_n_heads", "out of range",
                  "a divisor of the number of attention heads, " + std::to_string(heads));
  }
  return kv_heads;
}

Norm mpt_norm(const HfConfig& config, bool bias) {
  const std::string type = config.string_or("norm_type", "low_precision_layernorm");
  if (type == "rmsnorm" || type == "low_precision_rmsnorm") return {.eps = 1e-5f};
  if (type != "layernorm" && type != "low_precision_layernorm") {
    config.refuse(ErrorKind::kUnsupported, "norm_type", "unknown norm",
                  "layernorm, low_precision_layernorm, rmsnorm or low_precision_rmsnorm");
  }
  return {.kind = Norm::Kind::kLayer, .eps = 1e-5f, .bias = bias};
}

/// A number, or the name of a formula.
float mpt_logit_scale(const HfConfig& config, int32_t width) {
  if (!config.is_string("logit_scale")) return static_cast<float>(config.number_or("logit_scale", 1.0, kMultipliers));
  require_string(config, "logit_scale", "inv_sqrt_d_model");
  return 1 / std::sqrt(static_cast<float>(width));
}

}  // namespace

// Source: transformers/models/mpt/{configuration,modeling}_mpt.py, and the published modeling_mpt.py (mpt-7b) for what
// that leaves out: clip_qkv, alibi_bias_max (16 in mpt-7b-storywriter), learned positions, fewer kv heads.
ModelSpec mpt(const HfConfig& config) {
  const HfConfig fields = section_or_empty(config, "attn_config");
  require_boolean(fields, "rope", false);
  require_boolean(fields, "prefix_lm", false);
  fields.integer_or("sliding_window_size", -1, {-1, -1});
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("d_model", kWidths);
  const bool bias = !config.boolean_or("no_bias", false);

  Layer layer;
  Attention& attention = layer.attention;
  attention.heads = config.integer("n_heads", kHeadCounts);
  attention.kv_heads = mpt_kv_heads(fields, attention.heads);
  attention.head_dim = even_head_dim(config, model.width, "n_heads");
  attention.qkv_bias = attention.out_bias = bias;
  attention.clip_qkv = clip_qkv(fields);
  attention.scale = fields.number_or("softmax_scale", 0.0, {0.0, kMultipliers.max});
  layer.attention_norm = layer.ffn_norm = model.final_norm = mpt_norm(config, bias);
  if (fields.boolean_or("qk_ln", false)) {
    attention.qk_norm = Attention::QkNorm::kFull;
    attention.qk_norm_kind = layer.attention_norm;
  }
  if (fields.boolean_or("alibi", true)) {
    attention.positions = Alibi{.max_bias = fields.number_or("alibi_bias_max", 8.0, kMultipliers)};
  } else if (config.boolean_or("learned_pos_emb", true)) {
    attention.positions = LearnedPositions{.num_positions = config.integer("max_seq_len", kPositionCounts)};
  } else {
    attention.positions = NoPositions{};
  }
  const double expansion = config.number_or("expansion_ratio", 4.0, kMultipliers);
  const double ffn_width = std::floor(expansion * model.width);
  if (ffn_width < 1 || ffn_width > kWidths.max) {
    config.refuse(ErrorKind::kInvalidArgument, "expansion_ratio", "out of range", "a width of 1 to 1048576");
  }
  layer.ffn = {.width = static_cast<int32_t>(ffn_width), .act = Ffn::Act::kGelu, .gated = false, .bias = bias};
  model.layers.assign(config.integer("n_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.logit_scale = mpt_logit_scale(config, model.width);
  model.max_positions = max_positions(config, attention.positions);
  return model;
}

// Source: transformers/models/dbrx/{configuration,modeling}_dbrx.py; rope_theta as published (modeling_dbrx.py)
ModelSpec dbrx(const HfConfig& config) {
  const HfConfig fields = section_or_empty(config, "attn_config");
  const HfConfig ffn_fields = section_or_empty(config, "ffn_config");
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("d_model", kWidths);

  Layer layer;
  Attention& attention = layer.attention;
  attention.heads = config.integer("n_heads", kHeadCounts);
  attention.kv_heads = fields.integer_or("kv_n_heads", 1, kHeadCounts);
  if (attention.heads % attention.kv_heads != 0) {
    fields.refuse(ErrorKind::kInvalidArgument, "kv_n_heads", "out of range",
                  "a divisor of the number of attention heads, " + std::to_string(attention.heads));
  }
  attention.head_dim = even_head_dim(config, model.width, "n_heads");
  attention.clip_qkv = clip_qkv(fields);
  attention.positions = rope(fields, attention.head_dim);
  Moe moe = experts(ffn_fields, "moe_num_experts", "moe_top_k");
  // The weights of the chosen experts are divided by their 1-norm, or by nothing.
  if (!ffn_fields.is_null("moe_normalize_expert_weights")) {
    moe.renormalize = true;
    ffn_fields.number_or("moe_normalize_expert_weights", 1.0, {1.0, 1.0});
  }
  const HfConfig act = section_or_empty(ffn_fields, "ffn_act_fn");
  layer.ffn = {.width = ffn_fields.integer_or("ffn_hidden_size", 3584, kWidths),
               .act = activation(act, "name", "silu"),
               .moe = moe};
  layer.attention_norm = {.kind = Norm::Kind::kLayer, .eps = 1e-5f};
  layer.ffn_norm = model.final_norm = layer.attention_norm;
  model.layers.assign(config.integer("n_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", false);
  model.max_positions = max_positions(config, attention.positions);
  return model;
}

}  // namespace quire::families
