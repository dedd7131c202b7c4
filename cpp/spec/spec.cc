#include "spec/spec.h"

#include <cmath>

namespace quire {

double attention_scale(const Attention& attention) {
  return attention.scale > 0 ? attention.scale : 1.0 / std::sqrt(static_cast<double>(attention.head_dim));
}

}  // namespace quire
