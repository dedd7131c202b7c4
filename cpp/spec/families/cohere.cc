#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Command-R. Source: transformers/models/cohere/{configuration,modeling}_cohere.py
ModelSpec cohere(const HfConfig& config) {
  ModelSpec model = llama(config);
  Norm norm = layer_norm(config, "layer_norm_eps");
  norm.bias = false;
  model.set_norms(norm);
  model.interleave_rope();
  const bool qk_norm = config.boolean_or("use_qk_norm", false);
  model.for_layers([&](Layer& layer) {
    layer.wiring = Wiring::kParallel;
    if (!qk_norm) return;
    layer.attention.qk_norm = Attention::QkNorm::kPerHeadWeights;
    layer.attention.qk_norm_kind = norm;
  });
  model.tied = config.boolean_or("tie_word_embeddings", true);
  // The first folder says 8192 positions, a limit of its authors' code, beside the length that it was trained for.
  if (config.has("model_max_length")) model.max_positions = config.integer("model_max_length", kPositionCounts);
  model.logit_scale = static_cast<float>(config.number_or("logit_scale", 0.0625, kMultipliers));
  return model;
}

}  // namespace quire::families
