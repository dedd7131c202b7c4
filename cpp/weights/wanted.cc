#include "weights/wanted.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace quire {
namespace {

// Fields of config.json by their usual name, with GPT-2's in brackets.
constexpr std::string_view kWidth = "hidden_size (n_embd)";
constexpr std::string_view kHeadFields =
    "num_attention_heads (n_head), num_key_value_heads, head_dim, hidden_size (n_embd)";
constexpr std::string_view kFfnFields = "intermediate_size (n_inner), hidden_size (n_embd)";
constexpr std::string_view kExpertFields = "num_experts, moe_intermediate_size, hidden_size";
constexpr std::string_view kLatentFields =
    "num_attention_heads, kv_lora_rank, q_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim";

Cut by_outputs(std::vector<int64_t> units) {
  return {Cut::Along::kOutputs, std::move(units)};
}

Cut by_inputs(int64_t units) {
  return {Cut::Along::kInputs, {units}};
}

constexpr auto kFirstRank = Cut::Along::kFirstRank;

/// Collects the weights of one module after the other.
class Wishes {
 public:
  std::vector<WantedWeight> take() { return std::move(list_); }
  void enter_layer(int32_t layer) { layer_ = layer; }

  void add(WantedWeight weight) {
    weight.layer = layer_;
    list_.push_back(std::move(weight));
  }

  void linear(std::string_view module, std::vector<int64_t> outputs, int64_t inputs, std::string_view fields,
              PackedLinear& destination, Cut cut = {}) {
    add({.module = module,
         .outputs = std::move(outputs),
         .inputs = inputs,
         .fields = fields,
         .cut = std::move(cut),
         .destination = &destination});
  }

  void table(std::string_view module, int64_t rows, int64_t width, std::string_view fields, Tensor& destination) {
    add({.module = module, .outputs = {rows}, .inputs = width, .fields = fields, .destination = &destination});
  }

  void bias(bool wanted, std::string_view module, std::vector<int64_t> outputs, std::string_view fields,
            Tensor& destination, Cut cut = {}) {
    if (!wanted) return;
    add({.module = module,
         .is_bias = true,
         .outputs = std::move(outputs),
         .fields = fields,
         .cut = std::move(cut),
         .destination = &destination});
  }

  /// `heads` > 0: so many rows of `width`, one for each head.
  void norm(std::string_view module, const Norm& norm, int64_t width, std::string_view fields, NormWeights& weights,
            int64_t heads = 0) {
    if (norm.kind == Norm::Kind::kNone) return;
    const std::vector<int64_t> parts(static_cast<size_t>(std::max<int64_t>(heads, 1)), width);
    const Fold fold = norm.unit_offset ? Fold::kUnitOffset : Fold::kNone;
    const auto vector = [&](bool is_bias, Fold how, Tensor& destination) {
      add({.module = module,
           .is_bias = is_bias,
           .outputs = parts,
           .rows = heads,
           .fields = fields,
           .fold = how,
           .cut = {heads > 0 ? Cut::Along::kParts : Cut::Along::kNothing},
           .destination = &destination});
    };
    if (norm.weight) vector(false, fold, weights.weight);
    if (norm.bias) vector(true, Fold::kNone, weights.bias);
  }

 private:
  std::vector<WantedWeight> list_;
  int32_t layer_ = -1;
};

void want_latent_attention(const Attention& spec, int64_t width, AttentionWeights& weights, Wishes& wishes) {
  const Latent& latent = *spec.latent;
  const int64_t q = int64_t{spec.heads} * spec.head_dim;
  const int64_t nope = spec.head_dim - latent.rope_dim;
  const int64_t compressed = int64_t{latent.kv_rank} + latent.rope_dim;
  const std::vector<int64_t> down = {latent.q_rank > 0 ? latent.q_rank : q, compressed};
  const Cut down_cut = by_outputs({latent.q_rank > 0 ? 0 : spec.heads, 0});
  wishes.linear("attention.qkv", down, width, kLatentFields, weights.qkv, down_cut);
  wishes.bias(spec.qkv_bias, "attention.qkv", down, kLatentFields, weights.qkv_bias, down_cut);
  if (latent.q_rank > 0) {
    wishes.norm("attention.q_norm", latent.norm, latent.q_rank, kLatentFields, weights.q_norm);
    wishes.linear("attention.q_b", {q}, latent.q_rank, kLatentFields, weights.q_b, by_outputs({spec.heads}));
  }
  wishes.norm("attention.k_norm", latent.norm, latent.kv_rank, kLatentFields, weights.k_norm);
  const WantedWeight up{.module = "attention.kv_b",
                        .outputs = {nope, spec.value_dim()},
                        .inputs = latent.kv_rank,
                        .groups = spec.heads,
                        .fields = kLatentFields,
                        .cut = {Cut::Along::kGroups},
                        .destination = &weights.value_up};
  WantedWeight key = up, value = up;
  key.pick = 0;
  key.flipped = true;
  key.destination = &weights.key_up;
  value.pick = 1;
  wishes.add(std::move(key));
  wishes.add(std::move(value));
}

void want_plain_attention(const Attention& spec, int64_t width, AttentionWeights& weights, Wishes& wishes) {
  const int64_t q = int64_t{spec.heads} * spec.head_dim;
  const int64_t k = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t v = int64_t{spec.kv_heads} * spec.value_dim();
  // A norm over all heads is computed by every rank, of all of them.
  const bool cuts_qk = spec.qk_norm != Attention::QkNorm::kFull;
  WantedWeight qkv{.module = "attention.qkv",
                   .outputs = {q, k, v},
                   .inputs = width,
                   .kv_heads = spec.kv_heads,
                   .fields = kHeadFields,
                   .cut = by_outputs({cuts_qk ? spec.heads : 0, cuts_qk ? spec.kv_heads : 0, spec.kv_heads}),
                   .destination = &weights.qkv};
  wishes.add(qkv);
  if (spec.qkv_bias) {
    qkv.is_bias = true;
    qkv.inputs = 0;
    qkv.destination = &weights.qkv_bias;
    wishes.add(qkv);
  }
  const auto norm = [&](std::string_view module, int32_t heads, NormWeights& destination) {
    switch (spec.qk_norm) {
      case Attention::QkNorm::kNone: return;
      case Attention::QkNorm::kHead:
        return wishes.norm(module, spec.qk_norm_kind, spec.head_dim, "head_dim", destination);
      case Attention::QkNorm::kPerHeadWeights:
        return wishes.norm(module, spec.qk_norm_kind, spec.head_dim, kHeadFields, destination, heads);
      case Attention::QkNorm::kFull:
        return wishes.norm(module, spec.qk_norm_kind, int64_t{heads} * spec.head_dim, kHeadFields, destination);
    }
  };
  norm("attention.q_norm", spec.heads, weights.q_norm);
  norm("attention.k_norm", spec.kv_heads, weights.k_norm);
  if (spec.sinks) {
    wishes.add({.module = "attention.sinks",
                .outputs = {spec.heads},
                .fields = "num_attention_heads",
                .cut = by_outputs({spec.heads}),
                .destination = &weights.sinks});
  }
}

void want_attention(const Attention& spec, int64_t width, AttentionWeights& weights, Wishes& wishes) {
  if (spec.latent) {
    want_latent_attention(spec, width, weights, wishes);
  } else {
    want_plain_attention(spec, width, weights, wishes);
  }
  wishes.linear("attention.out", {width}, int64_t{spec.heads} * spec.value_dim(), kHeadFields, weights.out,
                by_inputs(spec.heads));
  wishes.bias(spec.out_bias, "attention.out", {width}, kWidth, weights.out_bias, {kFirstRank});
}

std::vector<int64_t> up_parts(const Ffn& spec, int64_t ffn_width) {
  return spec.gated ? std::vector<int64_t>{ffn_width, ffn_width} : std::vector<int64_t>{ffn_width};
}

void want_experts(const Ffn& spec, int64_t width, FfnWeights& weights, Wishes& wishes) {
  const Moe& moe = *spec.moe;
  wishes.linear("ffn.router", {moe.num_experts}, width, kExpertFields, weights.router);
  wishes.bias(moe.router_bias, "ffn.router", {moe.num_experts}, kExpertFields, weights.router_bias);
  if (moe.choice_bias) {
    wishes.add({.module = "ffn.choice_bias",
                .outputs = {moe.num_experts},
                .fields = kExpertFields,
                .destination = &weights.choice_bias});
  }
  const auto stack = [&](std::string_view module, std::vector<int64_t> outputs, int64_t inputs, PackedLinear& linear,
                         Tensor& bias, Cut cut, Cut bias_cut) {
    WantedWeight weight{.module = module,
                        .outputs = std::move(outputs),
                        .inputs = inputs,
                        .groups = moe.num_experts,
                        .fields = kExpertFields,
                        .cut = std::move(cut),
                        .destination = &linear};
    wishes.add(weight);
    if (!spec.bias) return;
    weight.is_bias = true;
    weight.inputs = 0;
    weight.rows = moe.num_experts;
    weight.cut = std::move(bias_cut);
    weight.destination = &bias;
    wishes.add(std::move(weight));
  };
  const Cut up_cut = by_outputs(up_parts(spec, spec.width));
  stack("experts.up", up_parts(spec, spec.width), width, weights.up, weights.up_bias, up_cut, up_cut);
  stack("experts.down", {width}, spec.width, weights.down, weights.down_bias, by_inputs(spec.width), {kFirstRank});
  if (moe.shared_width == 0) return;
  wishes.linear("shared.up", up_parts(spec, moe.shared_width), width, kExpertFields, weights.shared_up,
                by_outputs(up_parts(spec, moe.shared_width)));
  wishes.linear("shared.down", {width}, moe.shared_width, kExpertFields, weights.shared_down,
                by_inputs(moe.shared_width));
  if (moe.shared_gate) wishes.linear("shared.gate", {1}, width, kExpertFields, weights.shared_gate);
}

void want_ffn(const Ffn& spec, int64_t width, FfnWeights& weights, Wishes& wishes) {
  if (spec.moe) return want_experts(spec, width, weights, wishes);
  const std::vector<int64_t> up = up_parts(spec, spec.width);
  wishes.linear("ffn.up", up, width, kFfnFields, weights.up, by_outputs(up));
  wishes.bias(spec.bias, "ffn.up", up, kFfnFields, weights.up_bias, by_outputs(up));
  wishes.linear("ffn.down", {width}, spec.width, kFfnFields, weights.down, by_inputs(spec.width));
  wishes.bias(spec.bias, "ffn.down", {width}, kWidth, weights.down_bias, {kFirstRank});
}

void want_layer(const Layer& layer, int64_t width, LayerWeights& weights, Wishes& wishes) {
  wishes.norm("attention_norm", layer.attention_norm, width, kWidth, weights.attention_norm);
  want_attention(layer.attention, width, weights.attention, wishes);
  wishes.norm("attention_out_norm", layer.attention_out_norm, width, kWidth, weights.attention_out_norm);
  if (layer.wiring != Wiring::kParallel) {
    wishes.norm("ffn_norm", layer.ffn_norm, width, kWidth, weights.ffn_norm);
  }
  want_ffn(layer.ffn, width, weights.ffn, wishes);
  wishes.norm("ffn_out_norm", layer.ffn_out_norm, width, kWidth, weights.ffn_out_norm);
}

void want_embedding(const ModelSpec& spec, ModelWeights& weights, int32_t num_ranks, Wishes& wishes) {
  constexpr std::string_view kTableFields = "vocab_size, hidden_size (n_embd)";
  const int64_t width = spec.projects_embedding() ? spec.embed_width : spec.width;
  WantedWeight table{.module = "embedding",
                     .outputs = {spec.vocab, spec.padding_rows},
                     .inputs = width,
                     .pick = 0,
                     .fields = kTableFields,
                     .destination = &weights.embedding};
  if (!spec.tied || num_ranks > 1) wishes.add(table);
  table.module = spec.tied ? "embedding" : "head";
  table.fold = spec.head_unit_rows ? Fold::kUnitRows : Fold::kNone;
  table.cut = by_outputs({spec.vocab});
  table.destination = &weights.head;
  wishes.add(table);
  wishes.bias(spec.head_bias, "head", {spec.vocab}, "vocab_size", weights.head_bias, by_outputs({spec.vocab}));
  wishes.norm("embedding_norm", spec.embed_norm, width, kWidth, weights.embed_norm);
  if (const auto* learned = std::get_if<LearnedPositions>(&spec.layers.front().attention.positions)) {
    wishes.table("position_embedding", int64_t{learned->num_positions} + learned->offset, spec.width,
                 "n_positions, n_embd", weights.position_embedding);
  }
  if (!spec.projects_embedding()) return;
  constexpr std::string_view kProjectionFields = "word_embed_proj_dim, hidden_size";
  wishes.linear("project_in", {spec.width}, spec.embed_width, kProjectionFields, weights.project_in);
  wishes.linear("project_out", {spec.embed_width}, spec.width, kProjectionFields, weights.project_out);
}

}  // namespace

int64_t WantedWeight::stored_outputs() const {
  return std::accumulate(outputs.begin(), outputs.end(), int64_t{0});
}

int64_t WantedWeight::num_elements() const {
  const int64_t wanted = pick >= 0 ? outputs[static_cast<size_t>(pick)] : stored_outputs();
  return groups * wanted * std::max<int64_t>(inputs, 1);
}

std::vector<WantedWeight> wanted_weights(const ModelSpec& spec, ModelWeights& weights, int32_t num_ranks) {
  Wishes wishes;
  weights.layers.resize(spec.layers.size());
  want_embedding(spec, weights, num_ranks, wishes);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    wishes.enter_layer(static_cast<int32_t>(i));
    want_layer(spec.layers[i], spec.width, weights.layers[i], wishes);
  }
  wishes.enter_layer(-1);
  wishes.norm("final_norm", spec.final_norm, spec.width, kWidth, weights.final_norm);
  return wishes.take();
}

}  // namespace quire
