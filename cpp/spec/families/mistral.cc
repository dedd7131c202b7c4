#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Source: transformers/models/mistral/{configuration,modeling}_mistral.py
ModelSpec mistral(const HfConfig& config) {
  ModelSpec model = llama(config);
  // Absent it is 4096, null it is off.
  const int32_t window =
      config.is_null("sliding_window") ? 0 : config.integer_or("sliding_window", 4096, kPositionCounts);
  model.for_attention([&](Attention& attention) { attention.window = window; });
  return model;
}

}  // namespace quire::families
