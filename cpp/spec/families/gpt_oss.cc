#include <vector>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Source: transformers/models/gpt_oss/{configuration,modeling}_gpt_oss.py
ModelSpec gpt_oss(const HfConfig& config) {
  constexpr double kSwigluLimit = 7.0;
  ModelSpec model = llama(config.with_defaults({{"head_dim", 64}}));
  const bool bias = config.boolean_or("attention_bias", true);
  const int32_t window = sliding_window(config, 128);
  const std::vector<bool> slides = sliding_layers(config, model.layers.size(), 2);
  Moe moe = experts(config, {"num_local_experts", "num_experts"}, {"num_experts_per_tok", "experts_per_token"});
  moe.renormalize = true;
  moe.router_bias = true;
  const Ffn ffn{.width = model.layers.front().ffn.width,
                .act = Ffn::Act::kGeluQuick,
                .bias = true,
                .limit = config.number_or("swiglu_limit", kSwigluLimit, kMultipliers),
                .offset = 1.0,
                .moe = moe};
  for (size_t i = 0; i < slides.size(); ++i) {
    Attention& attention = model.layers[i].attention;
    attention.qkv_bias = attention.out_bias = bias;
    attention.window = slides[i] ? window : 0;
    attention.sinks = true;
    model.layers[i].ffn = ffn;
  }
  return model;
}

}  // namespace quire::families
