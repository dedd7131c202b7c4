#include <algorithm>
#include <vector>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// Windows are off unless the config says otherwise. Which layers slide is said by layer_types, or, before it existed,
/// by max_window_layers: those from it on.
void set_windows(const HfConfig& config, ModelSpec& model) {
  if (!config.boolean_or("use_sliding_window", false)) return;
  const int32_t window = sliding_window(config, 4096);
  std::vector<bool> slides = sliding_layers(config, model.layers.size());
  if (slides.empty()) {
    const auto first = static_cast<size_t>(config.integer_or("max_window_layers", 28, {0, kPositionCounts.max}));
    for (size_t i = 0; i < model.layers.size(); ++i) slides.push_back(i >= first);
  }
  for (size_t i = 0; i < slides.size(); ++i) model.layers[i].attention.window = slides[i] ? window : 0;
}

/// Every decoder_sparse_step-th layer has experts, but for those that mlp_only_layers lists.
void set_experts(const HfConfig& config, const Moe& moe, ModelSpec& model) {
  const int32_t step = config.integer_or("decoder_sparse_step", 1, kLayerCounts);
  const std::vector<int32_t> dense = config.integers("mlp_only_layers", {0, kLayerCounts.max});
  const int32_t width = config.integer("moe_intermediate_size", kWidths);
  for (int32_t i = 0; i < static_cast<int32_t>(model.layers.size()); ++i) {
    if ((i + 1) % step != 0 || std::ranges::find(dense, i) != dense.end()) continue;
    Ffn& ffn = model.layers[static_cast<size_t>(i)].ffn;
    ffn.width = width;
    ffn.moe = moe;
  }
}

Moe qwen_experts(const HfConfig& config) {
  Moe moe = experts(config, {"num_experts", "num_local_experts"}, "num_experts_per_tok");
  moe.renormalize = config.boolean_or("norm_topk_prob", false);
  return moe;
}

}  // namespace

// Qwen 1. Source: the published modeling_qwen.py (Qwen-7B)
ModelSpec qwen(const HfConfig& config) {
  require_boolean(config, "no_bias", true);
  ModelSpec model;
  model.vocab = config.integer("vocab_size", kVocabSizes);
  model.width = config.integer("hidden_size", kWidths);

  Layer layer;
  Attention& attention = layer.attention;
  attention.heads = attention.kv_heads = config.integer("num_attention_heads", kHeadCounts);
  attention.head_dim = config.has("kv_channels") ? config.integer("kv_channels", kHeadDims)
                                                 : even_head_dim(config, model.width, "num_attention_heads");
  attention.qkv_bias = true;
  Rope positions = rope(config, attention.head_dim);
  const int32_t trained = config.integer("seq_length", {2, kPositionCounts.max});
  const bool dynamic = config.boolean_or("use_dynamic_ntk", true);
  if (dynamic) {
    positions.scaling.kind = RopeScaling::Kind::kQwenDynamic;
    positions.scaling.original_max_positions = trained;
  }
  const bool log_scaled = config.boolean_or("use_logn_attn", true);
  if (log_scaled) {
    positions.log_scale_base = trained;
    // The scale is applied while heads are turned.
    if (positions.dim != attention.head_dim) {
      config.refuse(ErrorKind::kUnsupported, "rotary_pct", "log-n attention of partly rotated heads", "1");
    }
  }
  attention.positions = positions;
  // Both halves of the gated part count.
  layer.ffn = {.width = config.integer("intermediate_size", {2, kWidths.max}) / 2};
  layer.attention_norm = layer.ffn_norm = model.final_norm = rms_norm(config, "layer_norm_epsilon");

  model.layers.assign(config.integer("num_hidden_layers", kLayerCounts), layer);
  model.tied = config.boolean_or("tie_word_embeddings", false);
  const int32_t longest = config.integer_or("max_position_embeddings", trained, kPositionCounts);
  model.max_positions = dynamic || log_scaled ? std::max(longest, trained) : std::min(longest, trained);
  return model;
}

// Source: transformers/models/qwen2/{configuration,modeling}_qwen2.py
ModelSpec qwen2(const HfConfig& config) {
  ModelSpec model = llama(config);
  model.for_attention([](Attention& attention) {
    attention.qkv_bias = true;
    attention.out_bias = false;
  });
  set_windows(config, model);
  return model;
}

// Source: transformers/models/qwen2_moe/{configuration,modeling}_qwen2_moe.py
ModelSpec qwen2_moe(const HfConfig& config) {
  ModelSpec model = qwen2(config);
  const bool bias = config.boolean_or("qkv_bias", true);
  model.for_attention([&](Attention& attention) { attention.qkv_bias = bias; });
  Moe moe = qwen_experts(config);
  moe.shared_width = config.integer("shared_expert_intermediate_size", kWidths);
  moe.shared_gate = true;
  set_experts(config, moe, model);
  return model;
}

// Source: transformers/models/qwen3/{configuration,modeling}_qwen3.py
ModelSpec qwen3(const HfConfig& config) {
  ModelSpec model = llama(config.with_defaults({{"head_dim", 128}}));
  const Norm norm = model.final_norm;
  model.for_attention([&](Attention& attention) {
    attention.qk_norm = Attention::QkNorm::kHead;
    attention.qk_norm_kind = norm;
  });
  set_windows(config, model);
  return model;
}

// Source: transformers/models/qwen3_moe/{configuration,modeling}_qwen3_moe.py
ModelSpec qwen3_moe(const HfConfig& config) {
  ModelSpec model = qwen3(config);
  set_experts(config, qwen_experts(config), model);
  return model;
}

}  // namespace quire::families
