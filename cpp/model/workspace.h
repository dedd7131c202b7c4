#pragma once

#include <algorithm>
#include <cstdint>

#include "core/tensor.h"
#include "spec/spec.h"

namespace quire {

/// Where each activation of a step lies in one piece of memory. With a null base it only counts bytes.
///
/// The attention's and the feed-forward part's activations never live at the same time and share their place; so do,
/// once the layers are through, those of the head.
struct Workspace {
  Tensor hidden;     ///< [T, D], the residual stream
  Tensor normed;     ///< [T, D]
  Tensor qkv;        ///< [T, (H + G) * K + G * Kv], widest layer
  Tensor attention;  ///< [T, H * Kv], widest layer
  Tensor up;         ///< [T, 2F] or [T, F], widest layer
  Tensor activated;  ///< [T, F], widest layer
  Tensor gathered;   ///< [R, D]
  int64_t bytes = 0;

  Workspace(const ModelSpec& spec, int64_t num_tokens, int64_t num_logit_rows, void* base);
};

/// Columns of a layer's packed q, k, v.
inline int64_t qkv_width(const Attention& attention) {
  return int64_t{attention.heads + attention.kv_heads} * attention.head_dim +
         int64_t{attention.kv_heads} * attention.value_dim();
}

}  // namespace quire
