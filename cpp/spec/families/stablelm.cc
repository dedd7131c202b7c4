#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// StableLM 3B to 12B, also by the names of the first folders (StableLMEpoch).
// Source: transformers/models/stablelm/{configuration,modeling}_stablelm.py
ModelSpec stablelm(const HfConfig& config) {
  ModelSpec model = llama_with(config, {.rotated = 0.25});
  const Norm norm = layer_norm(config, {"layer_norm_eps", "norm_eps"});
  const bool qkv_bias = config.boolean_or("use_qkv_bias", false);
  const bool qk_norm = config.boolean_or("qk_layernorm", false);
  const bool parallel = config.boolean_or("use_parallel_residual", false);
  model.set_norms(norm);
  model.for_layers([&](Layer& layer) {
    if (parallel) layer.wiring = Wiring::kParallel;
    layer.attention.qkv_bias = qkv_bias;
    layer.attention.out_bias = false;
    if (!qk_norm) return;
    layer.attention.qk_norm = Attention::QkNorm::kPerHeadWeights;
    layer.attention.qk_norm_kind = norm;
    layer.attention.qk_norm_kind.bias = false;
  });
  return model;
}

}  // namespace quire::families
