#pragma once

#include <vector>

#include "backend/packed_linear.h"
#include "core/buffer.h"
#include "core/tensor.h"

namespace quire {

/// The canonical tensors of a model, in a backend's memory. A tensor that the spec does not ask for is empty. Vectors
/// (norms, biases) are float32 whatever the file holds; matrices keep their stored type.
struct NormWeights {
  Tensor weight;
  Tensor bias;
};

struct AttentionWeights {
  PackedLinear qkv;  ///< [(H + G) * K + G * v_head_dim, D], in the order q, k, v
  Tensor qkv_bias;
  PackedLinear out;  ///< [D, H * v_head_dim]
  Tensor out_bias;
  NormWeights q_norm, k_norm;
  Tensor sinks;  ///< [H]
};

struct FfnWeights {
  PackedLinear up;  ///< gated: [2F, D], gate above up; plain: [F, D]
  Tensor up_bias;
  PackedLinear down;  ///< [D, F]
  Tensor down_bias;
};

struct LayerWeights {
  NormWeights attention_norm;
  AttentionWeights attention;
  NormWeights ffn_norm;
  FfnWeights ffn;
};

struct ModelWeights {
  Tensor embedding;           ///< [V, D], stored type; absent if tied, where `head` serves
  Tensor position_embedding;  ///< [P, D], stored type
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  PackedLinear head;  ///< [V, D]; packed from the embedding if tied
  Tensor head_bias;

  /// Keeps what the tensors above point to alive.
  std::vector<Buffer> buffers;
};

}  // namespace quire
