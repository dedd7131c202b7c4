#include "model/workspace.h"

#include <algorithm>
#include <cstddef>

namespace quire {
namespace {

// Every tensor starts on a cache line, and where a GPU's copy engine can start.
constexpr int64_t kAlignment = 256;

class Cutter {
 public:
  Cutter(void* base, DType dtype, int64_t offset)
      : base_(static_cast<std::byte*>(base)), dtype_(dtype), offset_(offset) {}

  Tensor take(int64_t rows, int64_t columns) { return take(rows, columns, dtype_); }

  Tensor take(int64_t rows, int64_t columns, DType dtype) {
    void* place = base_ == nullptr ? nullptr : base_ + offset_;
    const Tensor tensor(place, dtype, {rows, columns});
    offset_ += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return tensor;
  }

  int64_t offset() const { return offset_; }

 private:
  std::byte* base_;
  DType dtype_;
  int64_t offset_;
};

/// Columns of each activation, the widest layer's.
struct Widths {
  int64_t normed_ffn = 0, branch = 0;
  int64_t qkv = 0, attention = 0, q = 0, latent_q = 0, latent_out = 0;
  int64_t up = 0, activated = 0, router_logits = 0, top_k = 0, moe_scratch_bytes = 0, shared_gate = 0, shared_out = 0;
  bool wide_branch = false;

  Widths(const ModelSpec& spec, const Backend& backend, int64_t num_tokens)
      : backend_(backend), num_tokens_(num_tokens) {
    for (const Layer& layer : spec.layers) {
      if (layer.wiring == Wiring::kParallelTwoNorms) normed_ffn = spec.width;
      const bool sums = spec.rank.num_ranks > 1;
      if (sums || !adds_plainly(layer)) branch = spec.width;
      // Experts give float32, and so does a product that is added to another.
      if (sums && (layer.ffn.moe || sums_parts_at_once(layer))) wide_branch = true;
      widen_attention(layer.attention);
      widen_ffn(layer.ffn, spec.width);
    }
  }

 private:
  const Backend& backend_;
  int64_t num_tokens_;

  static void widen(int64_t& width, int64_t columns) { width = std::max(width, columns); }

  void widen_attention(const Attention& spec) {
    widen(qkv, qkv_width(spec));
    widen(attention, int64_t{spec.heads} * spec.value_dim());
    if (!spec.latent) return;
    if (spec.latent->q_rank > 0) widen(q, int64_t{spec.heads} * spec.head_dim);
    widen(latent_q, int64_t{spec.heads} * spec.cache_key_dim());
    widen(latent_out, int64_t{spec.heads} * spec.cache_value_dim());
  }

  void widen_ffn(const Ffn& spec, int64_t width) {
    const auto widen_plain = [&](int32_t ffn_width) {
      widen(up, spec.up_columns(ffn_width));
      widen(activated, ffn_width);
    };
    if (!spec.moe) return widen_plain(spec.width);
    widen(router_logits, spec.moe->num_experts);
    widen(top_k, spec.moe->top_k);
    widen(moe_scratch_bytes, static_cast<int64_t>(backend_.moe_scratch_bytes({.num_tokens = num_tokens_,
                                                                              .num_experts = spec.moe->num_experts,
                                                                              .top_k = spec.moe->top_k,
                                                                              .width = width,
                                                                              .up_columns = spec.up_columns(spec.width),
                                                                              .ffn_width = spec.width})));
    if (spec.moe->shared_width > 0) widen_plain(spec.moe->shared_width);
    if (!spec.moe->shared_gate) return;
    widen(shared_gate, 1);
    widen(shared_out, width);
  }
};

}  // namespace

bool adds_plainly(const Layer& layer) {
  return layer.attention_out_norm.kind == Norm::Kind::kNone && layer.ffn_out_norm.kind == Norm::Kind::kNone &&
         layer.residual_scale == 1.0f;
}

bool sums_parts_at_once(const Layer& layer) {
  const bool parallel = layer.wiring == Wiring::kParallel || layer.wiring == Wiring::kParallelTwoNorms;
  return parallel && adds_plainly(layer);
}

int64_t qkv_width(const Attention& attention) {
  const int64_t q = int64_t{attention.heads} * attention.head_dim;
  if (attention.latent) {
    const Latent& latent = *attention.latent;
    return (latent.q_rank > 0 ? latent.q_rank : q) + latent.kv_rank + latent.rope_dim;
  }
  const int64_t num_computed = int64_t{attention.computed_heads()} + attention.computed_kv_heads();
  return num_computed * attention.head_dim + int64_t{attention.kv_heads} * attention.value_dim();
}

Workspace::Workspace(const ModelSpec& spec, const Backend& backend, DType dtype, int64_t num_tokens,
                     int64_t num_logit_rows, void* base) {
  const Widths widths(spec, backend, num_tokens);
  const DType type = backend.activation_dtype(dtype);
  const int64_t embed_width = spec.projects_embedding() ? spec.embed_width : 0;
  Cutter always(base, type, 0);
  hidden = always.take(num_tokens, spec.width, DType::kFloat32);
  normed = always.take(num_tokens, spec.width);
  normed_ffn = always.take(num_tokens, widths.normed_ffn);
  branch = always.take(num_tokens, widths.branch, widths.wide_branch ? DType::kFloat32 : type);

  Cutter in_embedding(base, type, always.offset());
  embedded = in_embedding.take(num_tokens, embed_width);

  Cutter in_attention(base, type, always.offset());
  qkv = in_attention.take(num_tokens, widths.qkv);
  attention = in_attention.take(num_tokens, widths.attention);
  q = in_attention.take(num_tokens, widths.q);
  latent_q = in_attention.take(num_tokens, widths.latent_q);
  latent_out = in_attention.take(num_tokens, widths.latent_out);

  Cutter in_ffn(base, type, always.offset());
  up = in_ffn.take(num_tokens, widths.up);
  activated = in_ffn.take(num_tokens, widths.activated);
  router_logits = in_ffn.take(num_tokens, widths.router_logits, DType::kFloat32);
  experts = in_ffn.take(num_tokens, widths.top_k, DType::kInt32);
  expert_weights = in_ffn.take(num_tokens, widths.top_k, DType::kFloat32);
  moe_scratch = in_ffn.take(1, widths.moe_scratch_bytes, DType::kUInt8);
  shared_gate = in_ffn.take(num_tokens, widths.shared_gate, DType::kFloat32);
  shared_out = in_ffn.take(num_tokens, widths.shared_out);

  Cutter in_head(base, type, always.offset());
  gathered = in_head.take(num_logit_rows, spec.width, DType::kFloat32);
  final_norms = in_head.take(num_logit_rows, spec.width);
  projected = in_head.take(num_logit_rows, embed_width);
  head_share = in_head.take(num_logit_rows, spec.rank.num_ranks > 1 ? spec.head_rows().count : 0, DType::kFloat32);

  bytes = std::max({in_embedding.offset(), in_attention.offset(), in_ffn.offset(), in_head.offset()});
}

}  // namespace quire
