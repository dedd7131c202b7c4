#include <cmath>
#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// The first layers are dense, then every moe_layer_freq-th has experts, of which some serve every token.
void set_experts(const HfConfig& config, Moe moe, ModelSpec& model) {
  const int32_t first = config.integer_or("first_k_dense_replace", 0, {0, kLayerCounts.max});
  const int32_t every = config.integer_or("moe_layer_freq", 1, kLayerCounts);
  const int32_t width = config.integer("moe_intermediate_size", kWidths);
  moe.shared_width = config.integer_or("n_shared_experts", 0, {0, kWidths.max / width}) * width;
  for (int32_t i = first; i < static_cast<int32_t>(model.layers.size()); ++i) {
    if (i % every != 0) continue;
    Ffn& ffn = model.layers[static_cast<size_t>(i)].ffn;
    ffn.width = width;
    ffn.moe = moe;
  }
}

Moe deepseek_experts(const HfConfig& config) {
  Moe moe = experts(config, "n_routed_experts", "num_experts_per_tok");
  moe.renormalize = config.boolean_or("norm_topk_prob", false);
  return moe;
}

/// Experts are chosen within the best groups only.
void set_groups(const HfConfig& config, Moe& moe) {
  moe.num_groups = config.integer_or("n_group", 1, kExpertCounts);
  moe.top_groups = config.integer_or("topk_group", 1, kExpertCounts);
  if (moe.num_experts % moe.num_groups != 0) {
    config.refuse(ErrorKind::kInvalidArgument, "n_group", "out of range",
                  "a divisor of the number of experts, " + std::to_string(moe.num_experts));
  }
  const int32_t group = moe.num_experts / moe.num_groups;
  if (moe.top_groups > moe.num_groups || moe.top_k > moe.top_groups * group) {
    config.refuse(ErrorKind::kInvalidArgument, "topk_group", "out of range",
                  "at most n_group, and enough for num_experts_per_tok experts");
  }
  if (moe.groups_by_two && moe.num_groups > 1 && group < 2) {
    config.refuse(ErrorKind::kInvalidArgument, "n_group", "out of range", "groups of two experts or more");
  }
}

Attention latent_attention(const HfConfig& config) {
  Attention attention;
  attention.heads = attention.kv_heads = config.integer("num_attention_heads", kHeadCounts);
  Latent latent;
  if (!config.is_null("q_lora_rank")) latent.q_rank = config.integer_or("q_lora_rank", 0, {0, kWidths.max});
  latent.kv_rank = config.integer("kv_lora_rank", kHeadDims);
  latent.rope_dim = config.integer("qk_rope_head_dim", kHeadDims);
  latent.norm = {.eps = 1e-6f};  // whatever rms_norm_eps says
  attention.head_dim = config.integer("qk_nope_head_dim", kHeadDims) + latent.rope_dim;
  attention.v_head_dim = config.integer("v_head_dim", kHeadDims);
  attention.qkv_bias = attention.out_bias = config.boolean_or("attention_bias", false);
  Rope positions = rope(config, latent.rope_dim);
  positions.interleaved = config.boolean_or("rope_interleave", true);
  attention.latent = latent;
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  const RopeScaling& scaling = positions.scaling;
  if (scaling.kind == RopeScaling::Kind::kYarn && scaling.mscale_all_dim > 0 && scaling.factor > 1) {
    const double magnitude = 0.1 * scaling.mscale_all_dim * std::log(scaling.factor) + 1;
    attention.scale *= magnitude * magnitude;
  }
  attention.positions = positions;
  return attention;
}

}  // namespace

// Source: the published modeling_deepseek.py (deepseek-moe-16b-base)
ModelSpec deepseek(const HfConfig& config) {
  require_string(config, "scoring_func", "softmax");
  ModelSpec model = llama(config);
  if (config.has("n_routed_experts")) set_experts(config, deepseek_experts(config), model);
  return model;
}

// Source: transformers/models/deepseek_v2/{configuration,modeling}_deepseek_v2.py, and the published
// modeling_deepseek.py (DeepSeek-V2) for the scale of the scores with yarn.
ModelSpec deepseek_v2(const HfConfig& config) {
  require_string(config, "scoring_func", "softmax");
  ModelSpec model = llama(config.with_defaults({{"head_dim", 64}}));  // not what an attention's head has
  model.for_attention([attention = latent_attention(config)](Attention& own) { own = attention; });
  model.max_positions = max_positions(config, model.layers.front().attention.positions);
  if (!config.has("n_routed_experts")) return model;
  Moe moe = deepseek_experts(config);
  if (!moe.renormalize) moe.scale = config.number_or("routed_scaling_factor", 1.0, kMultipliers);
  const std::string method = config.string_or("topk_method", "greedy");
  if (method == "group_limited_greedy") {
    set_groups(config, moe);
  } else if (method != "greedy") {
    config.refuse(ErrorKind::kUnsupported, "topk_method", "unknown router", "greedy or group_limited_greedy");
  }
  set_experts(config, moe, model);
  return model;
}

// Source: transformers/models/deepseek_v3/{configuration,modeling}_deepseek_v3.py
ModelSpec deepseek_v3(const HfConfig& config) {
  require_string(config, "scoring_func", "sigmoid");
  require_string(config, "topk_method", "noaux_tc");
  ModelSpec model = llama(config.with_defaults({{"head_dim", 64}}));
  model.for_attention([attention = latent_attention(config)](Attention& own) { own = attention; });
  model.max_positions = max_positions(config, model.layers.front().attention.positions);
  model.num_extra_layers = config.integer_or("num_nextn_predict_layers", 0, {0, kLayerCounts.max});
  Moe moe = deepseek_experts(config);
  moe.renormalize = config.boolean_or("norm_topk_prob", true);
  moe.scoring = Moe::Scoring::kSigmoid;
  moe.choice_bias = true;
  moe.groups_by_two = true;
  moe.scale = config.number_or("routed_scaling_factor", 2.5, kMultipliers);
  set_groups(config, moe);
  set_experts(config, moe, model);
  return model;
}

}  // namespace quire::families
