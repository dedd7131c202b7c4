#include <vector>

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

// Command R7B, Command A. Windows in all layers but each fourth, and positions in those with a window only.
// Source: transformers/models/cohere2/{configuration,modeling}_cohere2.py
ModelSpec cohere2(const HfConfig& config) {
  ModelSpec model = cohere(config);
  const int32_t window = sliding_window(config, 4096);
  const std::vector<bool> slides =
      sliding_layers(config, model.layers.size(), config.integer_or("sliding_window_pattern", 4, kLayerCounts));
  for (size_t i = 0; i < slides.size(); ++i) {
    Attention& attention = model.layers[i].attention;
    if (slides[i]) {
      attention.window = window;
    } else {
      attention.positions = NoPositions{};
    }
  }
  return model;
}

}  // namespace quire::families
