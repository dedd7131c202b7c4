#include "weights/wanted.h"

#include <numeric>
#include <utility>

namespace quire {
namespace {

// Fields of config.json by their usual name, with GPT-2's in brackets.
constexpr std::string_view kWidth = "hidden_size (n_embd)";

/// Collects the weights of one module after the other.
class Wishes {
 public:
  std::vector<WantedWeight> take() { return std::move(list_); }
  void enter_layer(int32_t layer) { layer_ = layer; }

  void linear(std::string_view module, std::vector<int64_t> outputs, int64_t inputs, std::string_view fields,
              PackedLinear& destination) {
    add({.module = module,
         .outputs = std::move(outputs),
         .inputs = inputs,
         .fields = fields,
         .destination = &destination});
  }

  void table(std::string_view module, int64_t rows, int64_t width, std::string_view fields, Tensor& destination) {
    add({.module = module, .outputs = {rows}, .inputs = width, .fields = fields, .destination = &destination});
  }

  void bias(bool wanted, std::string_view module, std::vector<int64_t> outputs, std::string_view fields,
            Tensor& destination) {
    if (!wanted) return;
    add({.module = module,
         .is_bias = true,
         .outputs = std::move(outputs),
         .fields = fields,
         .destination = &destination});
  }

  void norm(std::string_view module, const Norm& norm, int64_t width, std::string_view fields, NormWeights& weights) {
    if (norm.kind == Norm::Kind::kNone) return;
    if (norm.weight) {
      add({.module = module,
           .outputs = {width},
           .fields = fields,
           .unit_offset = norm.unit_offset,
           .destination = &weights.weight});
    }
    bias(norm.bias, module, {width}, fields, weights.bias);
  }

 private:
  void add(WantedWeight weight) {
    weight.layer = layer_;
    list_.push_back(std::move(weight));
  }

  std::vector<WantedWeight> list_;
  int32_t layer_ = -1;
};

void want_attention(const Attention& spec, int64_t width, AttentionWeights& weights, Wishes& wishes) {
  const int64_t q = int64_t{spec.heads} * spec.head_dim;
  const int64_t k = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t v = int64_t{spec.kv_heads} * spec.value_dim();
  constexpr std::string_view kFields =
      "num_attention_heads (n_head), num_key_value_heads, head_dim, hidden_size (n_embd)";
  wishes.linear("attention.qkv", {q, k, v}, width, kFields, weights.qkv);
  wishes.bias(spec.qkv_bias, "attention.qkv", {q, k, v}, kFields, weights.qkv_bias);
  if (spec.qk_norm != Attention::QkNorm::kNone) {
    const bool per_head = spec.qk_norm == Attention::QkNorm::kHead;
    wishes.norm("attention.q_norm", spec.qk_norm_kind, per_head ? spec.head_dim : q, "head_dim", weights.q_norm);
    wishes.norm("attention.k_norm", spec.qk_norm_kind, per_head ? spec.head_dim : k, "head_dim", weights.k_norm);
  }
  wishes.linear("attention.out", {width}, int64_t{spec.heads} * spec.value_dim(), kFields, weights.out);
  wishes.bias(spec.out_bias, "attention.out", {width}, kWidth, weights.out_bias);
}

void want_ffn(const Ffn& spec, int64_t width, FfnWeights& weights, Wishes& wishes) {
  constexpr std::string_view kFields = "intermediate_size (n_inner), hidden_size (n_embd)";
  const std::vector<int64_t> up =
      spec.gated ? std::vector<int64_t>{spec.width, spec.width} : std::vector<int64_t>{spec.width};
  wishes.linear("ffn.up", up, width, kFields, weights.up);
  wishes.bias(spec.bias, "ffn.up", up, kFields, weights.up_bias);
  wishes.linear("ffn.down", {width}, spec.width, kFields, weights.down);
  wishes.bias(spec.bias, "ffn.down", {width}, kWidth, weights.down_bias);
}

}  // namespace

int64_t WantedWeight::num_outputs() const {
  return std::accumulate(outputs.begin(), outputs.end(), int64_t{0});
}

std::vector<WantedWeight> wanted_weights(const ModelSpec& spec, ModelWeights& weights) {
  constexpr std::string_view kTableFields = "vocab_size, hidden_size (n_embd)";
  Wishes wishes;
  weights.layers.resize(spec.layers.size());
  if (!spec.tied) wishes.table("embedding", spec.vocab, spec.width, kTableFields, weights.embedding);
  wishes.linear(spec.tied ? "embedding" : "head", {spec.vocab}, spec.width, kTableFields, weights.head);
  wishes.bias(spec.head_bias, "head", {spec.vocab}, "vocab_size", weights.head_bias);
  if (const auto* learned = std::get_if<LearnedPositions>(&spec.layers.front().attention.positions)) {
    wishes.table("position_embedding", int64_t{learned->num_positions} + learned->offset, spec.width,
                 "n_positions, n_embd", weights.position_embedding);
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const Layer& layer = spec.layers[i];
    wishes.enter_layer(static_cast<int32_t>(i));
    wishes.norm("attention_norm", layer.attention_norm, spec.width, kWidth, weights.layers[i].attention_norm);
    want_attention(layer.attention, spec.width, weights.layers[i].attention, wishes);
    wishes.norm("ffn_norm", layer.ffn_norm, spec.width, kWidth, weights.layers[i].ffn_norm);
    want_ffn(layer.ffn, spec.width, weights.layers[i].ffn, wishes);
  }
  wishes.norm("final_norm", spec.final_norm, spec.width, kWidth, weights.final_norm);
  return wishes.take();
}

}  // namespace quire
