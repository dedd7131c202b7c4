#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// StableLM 3B to 12B, also by the names of the first folders (StableLMEpoch).
// Source: transformers/models/stablelm/{configuration,modeling}_stablelm.py
ModelSpec stablelm(const HfConfig& config) {
  ModelSpec model = llama(config);
  const Norm norm = layer_norm(config, {"layer_norm_eps", "norm_eps"});
  const Rope positions = rope(config, model.layers.front().attention.head_dim, {.rotated = 0.25});
  const bool qkv_bias = config.boolean_or("use_qkv_bias", false);
  const bool qk_norm = config.boolean_or("qk_layernorm", false);
  const bool parallel = config.boolean_or("use_parallel_residual", false);
  model.set_norms(norm);
  model.for_layers([&](Layer& layer) {
    if (parallel) layer.wiring = Wiring::kParallel;
    layer.attention.positions = positions;
    layer.attention.qkv_bias = qkv_bias;
    layer.attention.out_bias = false;
    if (!qk_norm) return;
    layer.attention.qk_norm = Attention::QkNorm::kPerHeadWeights;
    layer.attention.qk_norm_kind = norm;
    layer.attention.qk_norm_kind.bias = false;
  });
  model.max_positions = max_positions(config, positions);
  return model;
}

}  // namespace quire::families
