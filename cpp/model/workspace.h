#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "core/tensor.h"
#include "spec/spec.h"

namespace quire {

/// Where each activation of a step lies in one piece of memory. With a null base it only counts bytes.
///
/// The attention's and the feed-forward part's activations never live at the same time and share their place; so do the
/// embeddings before the layers, and those of the head behind them. Each is as wide as the widest layer needs; what no
/// layer needs has no columns. Activations are of the backend's type for the model; where another is named, of that.
struct Workspace {
  Tensor hidden;      ///< [T, D] float32, the residual stream
  Tensor normed;      ///< [T, D]
  Tensor normed_ffn;  ///< [T, D], of layers whose two parts read norms of their own side by side
  /// [T, D], what a part of a layer adds to the residual stream, if more is done to it before: a norm, a factor, or a
  /// sum over the ranks. float32 if such a sum needs it.
  Tensor branch;

  Tensor embedded;  ///< [T, De], embeddings of a width of their own

  Tensor qkv;         ///< [T, (H + G) * K + G * Kv]; latent: [T, (q_rank or H * K) + kv_rank + rope_dim]
  Tensor attention;   ///< [T, H * Kv]
  Tensor q;           ///< [T, H * K], of a compressed query
  Tensor latent_q;    ///< [T, H * (kv_rank + rope_dim)]
  Tensor latent_out;  ///< [T, H * kv_rank]

  Tensor up;              ///< [T, 2F] or [T, F]
  Tensor activated;       ///< [T, F]
  Tensor router_logits;   ///< [T, E] float32
  Tensor experts;         ///< [T, top_k] int32
  Tensor expert_weights;  ///< [T, top_k] float32
  Tensor moe_scratch;     ///< as many bytes as the backend asks for
  Tensor shared_gate;     ///< [T, 1] float32
  Tensor shared_out;      ///< [T, D], of a shared expert with a gate

  Tensor gathered;     ///< [R, D] float32
  Tensor final_norms;  ///< [R, D]
  Tensor projected;    ///< [R, De]
  Tensor head_share;   ///< [R, a rank's rows of the head] float32, of several ranks
  int64_t bytes = 0;

  /// `dtype`: what the model computes in, which gives the type of the activations (Backend::activation_dtype).
  Workspace(const ModelSpec& spec, const Backend& backend, DType dtype, int64_t num_tokens, int64_t num_logit_rows,
            void* base);
};

/// Whether the parts of a layer are added to the residual stream as they are.
bool adds_plainly(const Layer& layer);

/// Whether the ranks sum both parts of a layer, which read the same residual stream, at once.
bool sums_parts_at_once(const Layer& layer);

/// Columns of a layer's packed q, k, v, or of what stands there with latent attention.
int64_t qkv_width(const Attention& attention);

}  // namespace quire
