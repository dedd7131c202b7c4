#pragma once

#include "backend/backend.h"
#include "model/rope_tables.h"
#include "model/workspace.h"
#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

/// What every part of a layer needs to compute one step. Tensors of `memory` are cut to this step's rows.
struct Step {
  const Ops& ops;
  const RaggedBatch& batch;
  const Workspace& memory;
  Stream& stream;
};

/// out = norm(x), or a plain reference to x where the spec has no norm.
Tensor apply_norm(const Step& step, const Norm& norm, const NormWeights& weights, Tensor x, Tensor out);

/// memory.hidden += attention(x).
void apply_attention(const Step& step, const Attention& spec, const AttentionWeights& weights, const RopeTable* rope,
                     const KvLayer& kv, Tensor x);

/// memory.hidden += ffn(x).
void apply_ffn(const Step& step, const Ffn& spec, const FfnWeights& weights, Tensor x);

}  // namespace quire
