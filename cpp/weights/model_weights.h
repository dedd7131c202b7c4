#pragma once

#include <vector>

#include "backend/packed_linear.h"
#include "core/buffer.h"
#include "core/tensor.h"

namespace quire {

/// The canonical tensors of a model, or a rank's share of each (weights/shard.h), in a backend's memory. A tensor that
/// the spec does not ask for is empty. Vectors (norms, biases) are float32 whatever the file holds; matrices keep their
/// stored type.
struct NormWeights {
  Tensor weight;
  Tensor bias;
};

struct AttentionWeights {
  PackedLinear qkv;  ///< [(H + G) * K + G * v_head_dim, D], in the order q, k, v
  Tensor qkv_bias;
  PackedLinear out;  ///< [D, H * v_head_dim]
  Tensor out_bias;
  NormWeights q_norm, k_norm;  ///< latent: of the compressed query and of the latent
  Tensor sinks;                ///< [H]

  // Latent attention, where qkv is [(q_rank or H * K) + kv_rank + rope_dim, D].
  PackedLinear q_b;       ///< [H * K, q_rank], if the query is compressed
  PackedLinear key_up;    ///< H matrices [kv_rank, K - rope_dim]: turns a query towards the latent
  PackedLinear value_up;  ///< H matrices [v_head_dim, kv_rank]
};

struct FfnWeights {
  PackedLinear up;    ///< gated: [2F, D], gate above up; plain: [F, D]; of experts, E of them
  Tensor up_bias;     ///< of experts [E, ...]
  PackedLinear down;  ///< [D, F]; of experts, E of them
  Tensor down_bias;   ///< of experts [E, D]

  // Experts.
  PackedLinear router;  ///< [E, D]
  Tensor router_bias;   ///< [E]
  Tensor choice_bias;   ///< [E]
  PackedLinear shared_up, shared_down;
  PackedLinear shared_gate;  ///< [1, D]
};

struct LayerWeights {
  NormWeights attention_norm;
  AttentionWeights attention;
  NormWeights attention_out_norm;
  NormWeights ffn_norm;
  FfnWeights ffn;
  NormWeights ffn_out_norm;
};

struct ModelWeights {
  Tensor embedding;  ///< [V, De], stored type; absent if tied and whole, where `head` serves
  NormWeights embed_norm;
  Tensor position_embedding;  ///< [P, D], stored type
  PackedLinear project_in;    ///< [D, De], if the embeddings have a width of their own
  PackedLinear project_out;   ///< [De, D]
  std::vector<LayerWeights> layers;
  NormWeights final_norm;
  PackedLinear head;  ///< [V, De]; packed from the embedding if tied
  Tensor head_bias;

  /// Keeps what the tensors above point to alive.
  std::vector<Buffer> buffers;
};

}  // namespace quire
