#include "model/step.h"

namespace quire {
namespace {

/// Per-head or whole-row norm of q or k, in place.
void apply_qk_norm(const Step& step, const Attention& spec, const NormWeights& weights, Tensor heads, Tensor flat) {
  if (spec.qk_norm == Attention::QkNorm::kNone) return;
  const Tensor x = spec.qk_norm == Attention::QkNorm::kFull ? flat : heads;
  apply_norm(step, spec.qk_norm_kind, weights, x, x);
}

RopeArgs rope_args(const Step& step, const RopeTable& table) {
  RopeArgs args;
  args.rows = step.batch.rope_rows;
  args.cos = table.cos;
  args.sin = table.sin;
  args.layout = table.rope.interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalf;
  return args;
}

void apply_rope(const Step& step, const Attention& spec, const RopeTable& table, Tensor qkv) {
  const auto turn = [&](int64_t first, int64_t heads, Tensor cos, Tensor sin) {
    RopeArgs args = rope_args(step, table);
    args.x = args.out = qkv.columns(first * spec.head_dim, heads * spec.head_dim).heads(heads, spec.head_dim);
    args.cos = cos;
    args.sin = sin;
    step.ops.rope(args, step.stream);
  };
  if (table.rope.log_scale_base == 0) {
    // q and k lie side by side, so one call turns the heads of both.
    turn(0, spec.computed_heads() + spec.computed_kv_heads(), table.cos, table.sin);
  } else {
    turn(0, spec.computed_heads(), table.q_cos, table.q_sin);
    turn(spec.computed_heads(), spec.computed_kv_heads(), table.cos, table.sin);
  }
}

/// Turn q and k, and store k and v.
void write_keys_and_values(const Step& step, const Attention& spec, const LayerPositions& positions, Tensor qkv,
                           Tensor q, const KvWriteArgs& write) {
  const RopeTable* const table = positions.rope;
  if (table != nullptr && table->rope.log_scale_base == 0 && step.ops.rope_kv_write != nullptr) {
    step.ops.rope_kv_write({.q = q, .rope = rope_args(step, *table), .kv = write}, step.stream);
    return;
  }
  if (table != nullptr) apply_rope(step, spec, *table, qkv);
  step.ops.kv_write(write, step.stream);
}

}  // namespace

void apply_attention(const Step& step, const Attention& spec, const AttentionWeights& weights,
                     const LayerPositions& positions, const KvLayer& kv, const PartInput& input, const Sink& sink) {
  const int64_t q_columns = int64_t{spec.computed_heads()} * spec.head_dim;
  const int64_t k_columns = int64_t{spec.computed_kv_heads()} * spec.head_dim;
  const int64_t v_columns = int64_t{spec.kv_heads} * spec.value_dim();
  const int64_t num_tokens = step.batch.num_tokens;

  const Tensor qkv(step.memory.qkv.data, step.memory.qkv.dtype, {num_tokens, q_columns + k_columns + v_columns});
  apply_first_linear(step, input, {.weight = weights.qkv, .bias = weights.qkv_bias, .up = {}, .out = qkv});
  if (spec.clip_qkv > 0) step.ops.clip({.x = qkv, .limit = static_cast<float>(spec.clip_qkv)}, step.stream);

  // Of the heads from `first` on, that many.
  const auto heads_of = [&](int64_t column, int64_t first, int64_t count) {
    return qkv.columns(column + first * spec.head_dim, count * spec.head_dim).heads(count, spec.head_dim);
  };
  const Tensor q = heads_of(0, spec.first_head(), spec.heads);
  const Tensor k = heads_of(q_columns, spec.first_kv_head(), spec.kv_heads);
  const Tensor v = qkv.columns(q_columns + k_columns, v_columns).heads(spec.kv_heads, spec.value_dim());
  apply_qk_norm(step, spec, weights.q_norm, q, qkv.columns(0, q_columns));
  apply_qk_norm(step, spec, weights.k_norm, k, qkv.columns(q_columns, k_columns));
  write_keys_and_values(step, spec, positions, qkv, q, {.k = k, .v = v, .kv = kv, .slots = step.batch.slots});

  const Tensor mixed(step.memory.attention.data, step.memory.attention.dtype,
                     {num_tokens, int64_t{spec.heads} * spec.value_dim()});
  step.ops.attention({.q = q,
                      .kv = kv,
                      .batch = &step.batch,
                      .scale = static_cast<float>(attention_scale(spec)),
                      .window = spec.window,
                      .softcap = static_cast<float>(spec.softcap),
                      .alibi_slopes = positions.alibi_slopes,
                      .sinks = weights.sinks.as<const float>(),
                      .out = mixed.heads(spec.heads, spec.value_dim())},
                     step.stream);
  step.ops.linear(
      {.x = mixed, .weight = &weights.out, .bias = weights.out_bias, .residual = sink.residual, .out = sink.out},
      step.stream);
}

}  // namespace quire
