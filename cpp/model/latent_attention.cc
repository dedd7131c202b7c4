#include "model/step.h"

// Multi-head latent attention in its absorbed form: the up-projection of the keys is applied to the query instead, and
// that of the values to the result, so that attention runs over the cached latents as over one kv head, and no key or
// value of a head is ever formed. Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.

namespace quire {
namespace {

/// [T, H, K] queries, not yet turned.
Tensor queries(const Step& step, const Attention& spec, const AttentionWeights& weights, Tensor down) {
  const Latent& latent = *spec.latent;
  const int64_t q_columns = int64_t{spec.heads} * spec.head_dim;
  if (latent.q_rank == 0) return down.columns(0, q_columns).heads(spec.heads, spec.head_dim);
  const Tensor compressed = down.columns(0, latent.q_rank);
  apply_norm(step, latent.norm, weights.q_norm, compressed, compressed);
  const Tensor q(step.memory.q.data, step.memory.q.dtype, {step.batch.num_tokens, q_columns});
  step.ops.linear({.x = compressed, .weight = &weights.q_b, .out = q}, step.stream);
  return q.heads(spec.heads, spec.head_dim);
}

}  // namespace

void apply_latent_attention(const Step& step, const Attention& spec, const AttentionWeights& weights,
                            const LayerPositions& positions, const KvLayer& kv, const PartInput& input,
                            const Sink& sink) {
  const Latent& latent = *spec.latent;
  const RopeTable& table = *positions.rope;
  const int64_t num_tokens = step.batch.num_tokens;
  const int64_t heads = spec.heads, rank = latent.kv_rank, rotated = latent.rope_dim;
  const int64_t plain = spec.head_dim - rotated;
  const auto turn = [&](Tensor from, Tensor to) {
    step.ops.rope({.x = from,
                   .rows = step.batch.rope_rows,
                   .cos = table.cos,
                   .sin = table.sin,
                   .layout = table.rope.interleaved ? RopeLayout::kInterleaved : RopeLayout::kHalf,
                   .out = to},
                  step.stream);
  };

  const int64_t down_columns = qkv_width(spec);
  const Tensor down(step.memory.qkv.data, step.memory.qkv.dtype, {num_tokens, down_columns});
  apply_first_linear(step, input, {.weight = weights.qkv, .bias = weights.qkv_bias, .up = {}, .out = down});

  const Tensor key = down.columns(down_columns - rank - rotated, rank + rotated);
  const Tensor value = key.columns(0, rank);
  apply_norm(step, latent.norm, weights.k_norm, value, value);
  const Tensor shared_key = key.columns(rank, rotated).heads(1, rotated);
  turn(shared_key, shared_key);
  step.ops.kv_write({.k = key.heads(1, rank + rotated), .v = value.heads(1, rank), .kv = kv, .slots = step.batch.slots},
                    step.stream);

  const Tensor q = queries(step, spec, weights, down);
  const Tensor latent_q =
      Tensor(step.memory.latent_q.data, step.memory.latent_q.dtype, {num_tokens, heads * (rank + rotated)})
          .heads(heads, rank + rotated);
  step.ops.grouped_linear({.x = q.columns(0, plain), .weight = &weights.key_up, .out = latent_q.columns(0, rank)},
                          step.stream);
  turn(q.columns(plain, rotated), latent_q.columns(rank, rotated));

  const Tensor latent_out =
      Tensor(step.memory.latent_out.data, step.memory.latent_out.dtype, {num_tokens, heads * rank}).heads(heads, rank);
  step.ops.attention({.q = latent_q,
                      .kv = kv,
                      .batch = &step.batch,
                      .scale = static_cast<float>(attention_scale(spec)),
                      .window = spec.window,
                      .out = latent_out},
                     step.stream);

  const Tensor mixed(step.memory.attention.data, step.memory.attention.dtype, {num_tokens, heads * spec.value_dim()});
  step.ops.grouped_linear({.x = latent_out, .weight = &weights.value_up, .out = mixed.heads(heads, spec.value_dim())},
                          step.stream);
  step.ops.linear(
      {.x = mixed, .weight = &weights.out, .bias = weights.out_bias, .residual = sink.residual, .out = sink.out},
      step.stream);
}

}  // namespace quire
