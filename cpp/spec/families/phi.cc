#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Phi 1 to 2. Source: transformers/models/phi/{configuration,modeling}_phi.py
ModelSpec phi(const HfConfig& config) {
  ModelSpec model = llama_with(config, {.rotated = 0.5});
  const Norm norm = layer_norm(config, "layer_norm_eps");
  const Ffn ffn{.width = model.layers.front().ffn.width,
                .act = activation(config, "hidden_act", "gelu_new"),
                .gated = false,
                .bias = true};
  const bool qk_norm = config.boolean_or("qk_layernorm", false);
  model.set_norms(norm);
  model.for_layers([&](Layer& layer) {
    layer.wiring = Wiring::kParallel;
    layer.attention.qkv_bias = layer.attention.out_bias = true;
    if (qk_norm) layer.attention.qk_norm = Attention::QkNorm::kHead;
    layer.attention.qk_norm_kind = norm;
    layer.ffn = ffn;
  });
  model.head_bias = true;
  return model;
}

// Phi 3 and 4. Source: transformers/models/phi3/{configuration,modeling}_phi3.py
ModelSpec phi3(const HfConfig& config) {
  ModelSpec model = llama(config);
  const int32_t window = sliding_window(config);
  model.for_attention([&](Attention& attention) { attention.window = window; });
  return model;
}

}  // namespace quire::families
