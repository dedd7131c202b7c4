#include <cmath>

#include "model/step.h"

namespace quire {
namespace {

/// Per-head or whole-row norm of q or k, in place.
void apply_qk_norm(const Step& step, const Attention& spec, const NormWeights& weights, Tensor heads, Tensor flat) {
  if (spec.qk_norm == Attention::QkNorm::kNone) return;
  const Tensor x = spec.qk_norm == Attention::QkNorm::kFull ? flat : heads;
  apply_norm(step, spec.qk_norm_kind, weights, x, x);
}

}  // namespace

void apply_attention(const Step& step, const Attention& spec, const AttentionWeights& weights, const RopeTable* rope,
                     const KvLayer& kv, Tensor x) {
  const int64_t q_columns = int64_t{spec.heads} * spec.head_dim;
  const int64_t k_columns = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t v_columns = int64_t{spec.kv_heads} * spec.value_dim();
  const int64_t num_tokens = step.batch.num_tokens;

  const Tensor qkv(step.memory.qkv.data, DType::kFloat32, {num_tokens, q_columns + k_columns + v_columns});
  step.ops.linear({.x = x, .weight = &weights.qkv, .bias = weights.qkv_bias, .out = qkv}, step.stream);

  const Tensor q = qkv.columns(0, q_columns).heads(spec.heads, spec.head_dim);
  const Tensor k = qkv.columns(q_columns, k_columns).heads(spec.kv_heads, spec.head_dim);
  const Tensor v = qkv.columns(q_columns + k_columns, v_columns).heads(spec.kv_heads, spec.value_dim());
  apply_qk_norm(step, spec, weights.q_norm, q, qkv.columns(0, q_columns));
  apply_qk_norm(step, spec, weights.k_norm, k, qkv.columns(q_columns, k_columns));

  if (rope != nullptr) {
    // q and k lie side by side, so one call turns the heads of both.
    const Tensor qk = qkv.columns(0, q_columns + k_columns).heads(spec.heads + spec.kv_heads, spec.head_dim);
    step.ops.rope({.x = qk,
                   .rows = step.batch.positions,
                   .cos = rope->cos,
                   .sin = rope->sin,
                   .layout = rope->rope.interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalf},
                  step.stream);
  }
  step.ops.kv_write({.k = k, .v = v, .kv = kv, .slots = step.batch.slots}, step.stream);

  const int64_t out_columns = int64_t{spec.heads} * spec.value_dim();
  const Tensor mixed(step.memory.attention.data, DType::kFloat32, {num_tokens, out_columns});
  const double scale = spec.scale > 0 ? spec.scale : 1.0 / std::sqrt(static_cast<double>(spec.head_dim));
  step.ops.attention({.q = q,
                      .kv = kv,
                      .batch = &step.batch,
                      .scale = static_cast<float>(scale),
                      .window = spec.window,
                      .softcap = static_cast<float>(spec.softcap),
                      .out = mixed.heads(spec.heads, spec.value_dim())},
                     step.stream);

  const Tensor hidden = step.memory.hidden;
  step.ops.linear({.x = mixed, .weight = &weights.out, .bias = weights.out_bias, .residual = hidden, .out = hidden},
                  step.stream);
}

}  // namespace quire
