#include "model/decoder.h"

#include "core/check.h"
#include "model/step.h"

namespace quire {

struct Decoder::State {
  const ModelSpec& spec;
  const ModelWeights& weights;
  const Ops& ops;
  RopeTables rope;
};

namespace {

/// What this decoder has no code for fails here, before the first token, and not in the middle of a layer.
void require_served(const ModelSpec& spec) {
  for (const Layer& layer : spec.layers) {
    const Attention& attention = layer.attention;
    const Rope* rope = std::get_if<Rope>(&attention.positions);
    const bool long_rope = rope != nullptr && rope->scaling.kind == RopeScaling::Kind::kLongRope;
    const char* missing = std::holds_alternative<Alibi>(attention.positions) ? "alibi"
                          : long_rope                                        ? "rope_type=longrope"
                          : attention.clip_qkv > 0                           ? "clip_qkv"
                          : attention.sinks                                  ? "sinks"
                                                                             : nullptr;
    QUIRE_REQUIRE(missing == nullptr, ErrorKind::kUnsupported,
                  "[decoder] the model asks for attention that is not there: ", missing, ", family=", spec.family);
  }
}

}  // namespace

Tensor apply_norm(const Step& step, const Norm& norm, const NormWeights& weights, Tensor x, Tensor out) {
  if (norm.kind == Norm::Kind::kNone) return x;
  step.ops.norm({.kind = norm.kind == Norm::Kind::kRms ? NormKind::kRms : NormKind::kLayer,
                 .eps = norm.eps,
                 .x = x,
                 .weight = weights.weight,
                 .bias = weights.bias,
                 .out = out},
                step.stream);
  return out;
}

Decoder::Decoder(const ModelSpec& spec, const ModelWeights& weights, Backend& backend, Stream& stream,
                 int32_t max_model_len) {
  require_served(spec);
  QUIRE_CHECK(weights.layers.size() == spec.layers.size(), "weights=", weights.layers.size(),
              ", spec=", spec.layers.size());
  state_ =
      std::make_unique<State>(State{spec, weights, backend.ops(), RopeTables(spec, max_model_len, backend, stream)});
}

Decoder::~Decoder() = default;

int64_t Decoder::workspace_bytes(const ModelSpec& spec, int32_t max_tokens, int32_t max_logit_rows) {
  return Workspace(spec, max_tokens, max_logit_rows, nullptr).bytes;
}

Tensor Decoder::forward(const RaggedBatch& batch, std::span<const KvLayer> kv, void* workspace, Stream& stream) const {
  const ModelSpec& spec = state_->spec;
  const ModelWeights& weights = state_->weights;
  const Workspace memory(spec, batch.num_tokens, 0, workspace);
  const Step step{state_->ops, batch, memory, stream};
  const Tensor hidden = memory.hidden;

  step.ops.embed({.table = weights.embedding,
                  .packed = weights.embedding ? nullptr : &weights.head,
                  .ids = batch.token_ids,
                  .scale = spec.embed_scale,
                  .out = hidden},
                 stream);
  if (weights.position_embedding) {
    const auto& learned = std::get<LearnedPositions>(spec.layers.front().attention.positions);
    step.ops.embed({.table = weights.position_embedding,
                    .ids = batch.positions,
                    .offset = learned.offset,
                    .accumulate = true,
                    .out = hidden},
                   stream);
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const Layer& layer = spec.layers[i];
    const LayerWeights& own = weights.layers[i];
    const Tensor mixer_input = apply_norm(step, layer.attention_norm, own.attention_norm, hidden, memory.normed);
    apply_attention(step, layer.attention, own.attention, state_->rope.of_layer(i), kv[i], mixer_input);
    const Tensor ffn_input = apply_norm(step, layer.ffn_norm, own.ffn_norm, hidden, memory.normed);
    apply_ffn(step, layer.ffn, own.ffn, ffn_input);
  }
  return hidden;
}

void Decoder::logits(Tensor hidden, const int32_t* rows, int32_t num_rows, Tensor out, void* workspace,
                     Stream& stream) const {
  const ModelSpec& spec = state_->spec;
  const ModelWeights& weights = state_->weights;
  const Workspace memory(spec, hidden.shape[0], num_rows, workspace);
  const RaggedBatch no_batch;
  const Step step{state_->ops, no_batch, memory, stream};

  step.ops.gather({.x = hidden, .rows = rows, .out = memory.gathered}, stream);
  const Tensor x = apply_norm(step, spec.final_norm, weights.final_norm, memory.gathered, memory.gathered);
  step.ops.linear({.x = x, .weight = &weights.head, .bias = weights.head_bias, .out = out}, stream);
  if (spec.logit_scale != 1.0f || spec.logit_softcap > 0.0f) {
    step.ops.logit_scale({.x = out, .scale = spec.logit_scale, .softcap = spec.logit_softcap}, stream);
  }
}

}  // namespace quire
