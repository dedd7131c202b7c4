#include <cmath>
#include <vector>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// What Gemma 2 and 3 add: a norm behind each part, soft caps, and windows in the layers that `slides` names.
void set_second_generation(const HfConfig& config, double cap_attention, double cap_logits,
                           const std::vector<bool>& slides, ModelSpec& model) {
  const auto cap = [&](const char* name, double fallback) {
    return config.is_null(name) ? 0.0 : config.number_or(name, fallback, {0.0, kMultipliers.max});
  };
  const double scale = 1 / std::sqrt(config.number_or("query_pre_attn_scalar", 256, kMultipliers));
  const int32_t window = sliding_window(config, 4096);
  model.logit_softcap = static_cast<float>(cap("final_logit_softcapping", cap_logits));
  for (size_t i = 0; i < model.layers.size(); ++i) {
    Layer& layer = model.layers[i];
    layer.attention_out_norm = layer.ffn_out_norm = layer.attention_norm;
    layer.attention.scale = scale;
    layer.attention.softcap = cap("attn_logit_softcapping", cap_attention);
    layer.attention.window = slides[i] ? window : 0;
  }
}

ModelSpec gemma_with(const HfConfig& config, const RopeDefaults& defaults) {
  ModelSpec model = llama_with(config.with_defaults({{"head_dim", 256}}), defaults);
  const Ffn::Act act = activation(config, "hidden_activation", "gelu_pytorch_tanh");
  model.for_ffn([&](Ffn& ffn) { ffn.act = act; });
  model.embed_scale = std::sqrt(static_cast<float>(model.width));
  model.tied = config.boolean_or("tie_word_embeddings", true);
  model.set_norms({.eps = model.final_norm.eps, .unit_offset = true});
  return model;
}

}  // namespace

// The first folders name an activation that the model was not trained with; only hidden_activation counts.
// Source: transformers/models/gemma/{configuration,modeling}_gemma.py
ModelSpec gemma(const HfConfig& config) {
  return gemma_with(config, {});
}

// Source: transformers/models/gemma2/{configuration,modeling}_gemma2.py
ModelSpec gemma2(const HfConfig& config) {
  ModelSpec model = gemma(config);
  set_second_generation(config, 50.0, 30.0, sliding_layers(config, model.layers.size(), 2), model);
  return model;
}

// The text model. Source: transformers/models/gemma3/{configuration,modeling}_gemma3.py
ModelSpec gemma3(const HfConfig& config) {
  ModelSpec model = gemma_with(config, {.base = 1e6, .layer_type = "full_attention"});
  const auto pattern =
      static_cast<size_t>(config.integer_or({"sliding_window_pattern", "_sliding_window_pattern"}, 6, kLayerCounts));
  const std::vector<bool> slides = sliding_layers(config, model.layers.size(), pattern);
  set_second_generation(config, 0.0, 0.0, slides, model);

  const int32_t head_dim = model.layers.front().attention.head_dim;
  // Before transformers 5 the scaling stood beside it and did not apply.
  Rope local{.dim = head_dim, .base = config.number_or("rope_local_base_freq", 10000.0, kRopeBases)};
  const std::optional<HfConfig> parameters = config.section("rope_parameters");
  if (parameters && parameters->has_sections()) {
    local = rope(config, head_dim, {.layer_type = "sliding_attention"});
  }
  for (size_t i = 0; i < slides.size(); ++i) {
    Attention& attention = model.layers[i].attention;
    if (slides[i]) attention.positions = local;
    attention.qk_norm = Attention::QkNorm::kHead;
    attention.qk_norm_kind = model.final_norm;
  }
  return model;
}

}  // namespace quire::families
