#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Source: transformers/models/mistral/{configuration,modeling}_mistral.py
ModelSpec mistral(const HfConfig& config) {
  ModelSpec model = llama(config);
  const int32_t window = sliding_window(config, 4096);
  model.for_attention([&](Attention& attention) { attention.window = window; });
  return model;
}

// Source: transformers/models/mixtral/{configuration,modeling}_mixtral.py
ModelSpec mixtral(const HfConfig& config) {
  ModelSpec model = llama_with(config, {.base = 1e6});
  const int32_t window = sliding_window(config);
  Moe moe = experts(config, "num_local_experts", "num_experts_per_tok");
  moe.renormalize = true;
  model.for_layers([&](Layer& layer) {
    layer.attention.window = window;
    layer.ffn.moe = moe;
  });
  return model;
}

}  // namespace quire::families
