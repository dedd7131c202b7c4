#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Source: transformers/models/starcoder2/{configuration,modeling}_starcoder2.py
ModelSpec starcoder2(const HfConfig& config) {
  require_string(config, "norm_type", "layer_norm");
  require_string(config, "mlp_type", "default");
  ModelSpec model = llama(config);
  const bool bias = config.boolean_or("use_bias", true);
  const int32_t window = sliding_window(config);
  const Ffn ffn{.width = model.layers.front().ffn.width,
                .act = activation(config, "hidden_act", "gelu_pytorch_tanh"),
                .gated = false,
                .bias = bias};
  model.set_norms(layer_norm(config, "norm_epsilon"));
  model.for_layers([&](Layer& layer) {
    layer.attention.window = window;
    layer.attention.qkv_bias = layer.attention.out_bias = bias;
    layer.ffn = ffn;
  });
  model.tied = config.boolean_or("tie_word_embeddings", true);
  return model;
}

}  // namespace quire::families
