#pragma once

#include "backend/backend.h"
#include "comm/communicator.h"
#include "model/position_tables.h"
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
  Communicator* ranks = nullptr;  ///< null: one has the whole model
};

/// Where a part of a layer puts its result, or this rank's part of it: out = part(x) (+ residual).
struct Sink {
  Tensor residual;  ///< [T, D]; absent, or the same as `out`
  Tensor out;       ///< [T, D]; may be the part's input
};

/// What a part of a layer reads: norm(x), or x itself. The part's first product may compute the norm on its way.
struct PartInput {
  Tensor x;                    ///< [T, D]
  const Norm* norm = nullptr;  ///< null: x as it is
  const NormWeights* weights = nullptr;
  Tensor room;  ///< for norm(x); may be `x`
};

/// norm(x), computed; x where there is no norm.
Tensor normed(const Step& step, const PartInput& input);

/// out = weight * norm(x) + bias, with an activation behind it if there is a `rule`; then `up` is room for the product.
struct FirstLinear {
  const PackedLinear& weight;
  Tensor bias;
  const ActivationRule* rule = nullptr;
  Tensor up;
  Tensor out;
};
void apply_first_linear(const Step& step, const PartInput& input, const FirstLinear& linear);

/// out = norm(x), or a plain reference to x where the spec has no norm.
Tensor apply_norm(const Step& step, const Norm& norm, const NormWeights& weights, Tensor x, Tensor out);

void apply_attention(const Step& step, const Attention& spec, const AttentionWeights& weights,
                     const LayerPositions& positions, const KvLayer& kv, const PartInput& input, const Sink& sink);
void apply_latent_attention(const Step& step, const Attention& spec, const AttentionWeights& weights,
                            const LayerPositions& positions, const KvLayer& kv, const PartInput& input,
                            const Sink& sink);

void apply_ffn(const Step& step, const Ffn& spec, const FfnWeights& weights, const PartInput& input, const Sink& sink);
void apply_experts(const Step& step, const Ffn& spec, const FfnWeights& weights, const PartInput& input,
                   const Sink& sink);

/// The two matrices of a feed-forward part with what stands between them.
struct FfnMatrices {
  const PackedLinear& up;
  Tensor up_bias;
  const PackedLinear& down;
  Tensor down_bias;
  int32_t width = 0;
};
void apply_matrices(const Step& step, const Ffn& spec, const FfnMatrices& matrices, const PartInput& input,
                    const Sink& sink);

ActivationRule activation_rule(const Ffn& spec);

}  // namespace quire
