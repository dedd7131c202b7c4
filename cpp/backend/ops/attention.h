#pragma once

#include "backend/kv_cache.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// Causal attention of this step's queries over the paged keys and values of their own sequences, this step's included.
///
/// scores = q . k * scale; softcap > 0: softcap * tanh(scores / softcap); alibi: + slope[h] * (key - query position);
/// window > 0: a query sees exactly `window` keys, itself included; sinks: one more score per head that takes part in
/// the softmax and has no value. Query head h reads kv head h / (H / G).
///
/// A row's result on the CPU, or in a deterministic backend, does not depend on the other rows, nor on how the prompt
/// was cut into steps: partial softmax sums are formed over fixed spans of absolute key positions and joined in order.
struct AttentionArgs {
  Tensor q;  ///< [T, H, K], rows may be strided
  KvLayer kv;
  const RaggedBatch* batch = nullptr;
  float scale = 1.0f;
  int32_t window = 0;
  float softcap = 0.0f;
  const float* alibi_slopes = nullptr;  ///< [H] or null
  const float* sinks = nullptr;         ///< [H] or null
  Tensor out;                           ///< [T, H, v_head_dim], type of q
};
using AttentionFn = void (*)(const AttentionArgs&, Stream&);

}  // namespace quire
