#include <string>

#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {
namespace {

/// Does each layer slide? layer_types says so, or, before it existed, the layers from max_window_layers on do.
std::vector<bool> sliding_layers(const HfConfig& config, int32_t num_layers) {
  std::vector<bool> slides;
  const std::vector<std::string> types = config.strings("layer_types");
  if (types.empty()) {
    const int32_t first = config.integer_or("max_window_layers", 28, {0, kPositionCounts.max});
    for (int32_t i = 0; i < num_layers; ++i) slides.push_back(i >= first);
    return slides;
  }
  for (const std::string& type : types) {
    if (type != "sliding_attention" && type != "full_attention") {
      config.refuse(ErrorKind::kUnsupported, "layer_types", "unknown kind of layer '" + type + "'",
                    "sliding_attention or full_attention");
    }
    slides.push_back(type == "sliding_attention");
  }
  if (slides.size() != static_cast<size_t>(num_layers)) {
    config.refuse(ErrorKind::kInvalidArgument, "layer_types", "wrong length " + std::to_string(slides.size()),
                  "one for each of " + std::to_string(num_layers) + " layers");
  }
  return slides;
}

}  // namespace

// Source: transformers/models/qwen2/{configuration,modeling}_qwen2.py
ModelSpec qwen2(const HfConfig& config) {
  ModelSpec model = llama(config);
  model.for_attention([](Attention& attention) {
    attention.qkv_bias = true;
    attention.out_bias = false;
  });
  if (!config.boolean_or("use_sliding_window", false) || config.is_null("sliding_window")) return model;
  const int32_t window = config.integer_or("sliding_window", 4096, kPositionCounts);
  const std::vector<bool> slides = sliding_layers(config, static_cast<int32_t>(model.layers.size()));
  for (size_t i = 0; i < slides.size(); ++i) model.layers[i].attention.window = slides[i] ? window : 0;
  return model;
}

}  // namespace quire::families
