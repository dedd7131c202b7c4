#include "model/decoder.h"

#include "core/check.h"
#include "model/step.h"

namespace quire {

struct Decoder::State {
  const ModelSpec& spec;
  const ModelWeights& weights;
  const Ops& ops;
  PositionTables positions;
};

namespace {

/// One layer of one step.
class LayerRun {
 public:
  LayerRun(const Step& step, const Layer& spec, const LayerWeights& weights, const LayerPositions& positions,
           const KvLayer& kv)
      : step_(step), spec_(spec), weights_(weights), positions_(positions), kv_(kv), hidden_(step.memory.hidden) {}

  void run() const {
    switch (spec_.wiring) {
      case Wiring::kSequential:
        add_attention(attention_norm(step_.memory.normed));
        add_ffn(ffn_norm(step_.memory.normed));
        return;
      case Wiring::kParallel: {
        const Tensor x = attention_norm(step_.memory.normed);
        add_attention(x);
        add_ffn(x);
        return;
      }
      case Wiring::kParallelTwoNorms: {
        const Tensor x = ffn_norm(step_.memory.normed_ffn);
        add_attention(attention_norm(step_.memory.normed));
        add_ffn(x);
        return;
      }
      case Wiring::kPost:
        add_attention(hidden_);
        attention_norm(hidden_);
        add_ffn(hidden_);
        ffn_norm(hidden_);
        return;
      case Wiring::kNormedResidual:
        add_attention(attention_norm(hidden_));
        add_ffn(ffn_norm(hidden_));
        return;
    }
  }

 private:
  Tensor attention_norm(Tensor out) const {
    return apply_norm(step_, spec_.attention_norm, weights_.attention_norm, hidden_, out);
  }
  Tensor ffn_norm(Tensor out) const { return apply_norm(step_, spec_.ffn_norm, weights_.ffn_norm, hidden_, out); }

  void add_attention(Tensor x) const {
    add(spec_.attention_out_norm, weights_.attention_out_norm, [&](const Sink& sink) {
      if (spec_.attention.latent) {
        apply_latent_attention(step_, spec_.attention, weights_.attention, positions_, kv_, x, sink);
      } else {
        apply_attention(step_, spec_.attention, weights_.attention, positions_, kv_, x, sink);
      }
    });
  }

  void add_ffn(Tensor x) const {
    add(spec_.ffn_out_norm, weights_.ffn_out_norm, [&](const Sink& sink) {
      if (spec_.ffn.moe) {
        apply_experts(step_, spec_.ffn, weights_.ffn, x, sink);
      } else {
        apply_ffn(step_, spec_.ffn, weights_.ffn, x, sink);
      }
    });
  }

  /// hidden += residual_scale * norm(part). Where nothing is done to the part's result it is added as it is made.
  template <typename Part>
  void add(const Norm& norm, const NormWeights& weights, const Part& part) const {
    if (norm.kind == Norm::Kind::kNone && spec_.residual_scale == 1.0f) {
      return part({.residual = hidden_, .out = hidden_});
    }
    const Tensor result = step_.memory.branch;
    part({.residual = {}, .out = result});
    apply_norm(step_, norm, weights, result, result);
    step_.ops.add({.x = result, .scale = spec_.residual_scale, .out = hidden_}, step_.stream);
  }

  const Step& step_;
  const Layer& spec_;
  const LayerWeights& weights_;
  const LayerPositions& positions_;
  const KvLayer& kv_;
  const Tensor hidden_;
};

/// memory.hidden = what enters the first layer.
void embed(const Step& step, const ModelSpec& spec, const ModelWeights& weights) {
  const Tensor hidden = step.memory.hidden;
  const Tensor embedded = spec.projects_embedding() ? step.memory.embedded : hidden;
  step.ops.embed({.table = weights.embedding,
                  .packed = weights.embedding ? nullptr : &weights.head,
                  .ids = step.batch.token_ids,
                  .scale = spec.embed_scale,
                  .out = embedded},
                 step.stream);
  apply_norm(step, spec.embed_norm, weights.embed_norm, embedded, embedded);
  if (spec.projects_embedding()) {
    step.ops.linear({.x = embedded, .weight = &weights.project_in, .out = hidden}, step.stream);
  }
  if (!weights.position_embedding) return;
  const auto& learned = std::get<LearnedPositions>(spec.layers.front().attention.positions);
  step.ops.embed({.table = weights.position_embedding,
                  .ids = step.batch.positions,
                  .offset = learned.offset,
                  .scale = spec.embed_scale,
                  .accumulate = true,
                  .out = hidden},
                 step.stream);
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
  QUIRE_CHECK(weights.layers.size() == spec.layers.size(), "weights=", weights.layers.size(),
              ", spec=", spec.layers.size());
  state_ = std::make_unique<State>(
      State{spec, weights, backend.ops(), PositionTables(spec, max_model_len, backend, stream)});
}

Decoder::~Decoder() = default;

int64_t Decoder::workspace_bytes(const ModelSpec& spec, int32_t max_tokens, int32_t max_logit_rows) {
  return Workspace(spec, max_tokens, max_logit_rows, nullptr).bytes;
}

int64_t Decoder::table_bytes(const ModelSpec& spec, int32_t max_model_len) {
  return PositionTables::bytes(spec, max_model_len);
}

Tensor Decoder::forward(const RaggedBatch& batch, std::span<const KvLayer> kv, void* workspace, Stream& stream) const {
  const ModelSpec& spec = state_->spec;
  const ModelWeights& weights = state_->weights;
  const Workspace memory(spec, batch.num_tokens, 0, workspace);
  const Step step{state_->ops, batch, memory, stream};
  embed(step, spec, weights);
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    LayerRun(step, spec.layers[i], weights.layers[i], state_->positions.of_layer(i), kv[i]).run();
  }
  return memory.hidden;
}

void Decoder::logits(Tensor hidden, const int32_t* rows, int32_t num_rows, Tensor out, void* workspace,
                     Stream& stream) const {
  const ModelSpec& spec = state_->spec;
  const ModelWeights& weights = state_->weights;
  const Workspace memory(spec, hidden.shape[0], num_rows, workspace);
  const RaggedBatch no_batch;
  const Step step{state_->ops, no_batch, memory, stream};

  step.ops.gather({.x = hidden, .rows = rows, .out = memory.gathered}, stream);
  Tensor x = apply_norm(step, spec.final_norm, weights.final_norm, memory.gathered, memory.gathered);
  if (spec.projects_embedding()) {
    step.ops.linear({.x = x, .weight = &weights.project_out, .out = memory.projected}, stream);
    x = memory.projected;
  }
  step.ops.linear({.x = x, .weight = &weights.head, .bias = weights.head_bias, .out = out}, stream);
  if (spec.logit_scale != 1.0f || spec.logit_softcap > 0.0f) {
    step.ops.logit_scale({.x = out, .scale = spec.logit_scale, .softcap = spec.logit_softcap}, stream);
  }
}

}  // namespace quire
