#include "spec/families/families.h"
#include "spec/hf_fields.h"

namespace quire::families {

// Baichuan-13B and Baichuan2 share a name: the config tells them apart by sizes only.
// Source: the published modeling_baichuan.py (Baichuan-13B-Base, Baichuan2-7B-Base, Baichuan2-13B-Base)
ModelSpec baichuan(const HfConfig& config) {
  constexpr int32_t kRotaryWidth = 4096;
  constexpr int32_t kSecondVocab = 125696;
  ModelSpec model = llama(config);
  model.head_unit_rows = model.vocab == kSecondVocab;
  if (model.width == kRotaryWidth) return model;
  model.for_attention([](Attention& attention) { attention.positions = Alibi{}; });
  return model;
}

}  // namespace quire::families
