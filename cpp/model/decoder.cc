#include "model/decoder.h"

#include "core/check.h"
#include "model/step.h"

namespace quire {

struct Decoder::State {
  const ModelSpec& spec;
  const ModelWeights& weights;
  const Backend& backend;
  DType dtype;
  PositionTables positions;
  Communicator* ranks;

  Workspace workspace(int64_t num_tokens, int64_t num_logit_rows, void* base) const {
    return Workspace(spec, backend, dtype, num_tokens, num_logit_rows, base);
  }
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
        add_attention(attention_input(step_.memory.normed));
        add_ffn(ffn_input(step_.memory.normed));
        return;
      case Wiring::kParallel: {
        const Tensor x = normed(step_, attention_input(step_.memory.normed));
        add_both({.x = x}, {.x = x});
        return;
      }
      case Wiring::kParallelTwoNorms: {
        const Tensor x = normed(step_, ffn_input(step_.memory.normed_ffn));
        add_both(attention_input(step_.memory.normed), {.x = x});
        return;
      }
      case Wiring::kPost:
        add_attention({.x = hidden_});
        normed(step_, attention_input(hidden_));
        add_ffn({.x = hidden_});
        normed(step_, ffn_input(hidden_));
        return;
      case Wiring::kNormedResidual:
        add_attention({.x = normed(step_, attention_input(hidden_))});
        add_ffn({.x = normed(step_, ffn_input(hidden_))});
        return;
    }
  }

 private:
  PartInput attention_input(Tensor room) const {
    return {.x = hidden_, .norm = &spec_.attention_norm, .weights = &weights_.attention_norm, .room = room};
  }
  PartInput ffn_input(Tensor room) const {
    return {.x = hidden_, .norm = &spec_.ffn_norm, .weights = &weights_.ffn_norm, .room = room};
  }

  void attention(const PartInput& input, const Sink& sink) const {
    if (spec_.attention.latent) {
      apply_latent_attention(step_, spec_.attention, weights_.attention, positions_, kv_, input, sink);
    } else {
      apply_attention(step_, spec_.attention, weights_.attention, positions_, kv_, input, sink);
    }
  }
  void ffn(const PartInput& input, const Sink& sink) const {
    if (spec_.ffn.moe) {
      apply_experts(step_, spec_.ffn, weights_.ffn, input, sink);
    } else {
      apply_ffn(step_, spec_.ffn, weights_.ffn, input, sink);
    }
  }

  void add_attention(const PartInput& input) const {
    add(spec_.attention_out_norm, weights_.attention_out_norm, branch(step_.memory.normed.dtype),
        [&](const Sink& sink) { attention(input, sink); });
  }
  void add_ffn(const PartInput& input) const {
    // Experts give float32, whatever activations are.
    const bool wide = step_.ranks != nullptr && spec_.ffn.moe;
    add(spec_.ffn_out_norm, weights_.ffn_out_norm, branch(wide ? DType::kFloat32 : step_.memory.normed.dtype),
        [&](const Sink& sink) { ffn(input, sink); });
  }

  /// Parts that do not read each other's results: the ranks sum them at once, if nothing is done to either.
  void add_both(const PartInput& attention_input, const PartInput& ffn_input) const {
    if (step_.ranks == nullptr || !sums_parts_at_once(spec_)) {
      add_attention(attention_input);
      add_ffn(ffn_input);
      return;
    }
    const Tensor sum = branch(DType::kFloat32);
    attention(attention_input, {.residual = {}, .out = sum});
    ffn(ffn_input, {.residual = sum, .out = sum});
    step_.ranks->all_reduce({.x = sum, .add_to = hidden_}, step_.stream);
  }

  /// hidden += residual_scale * norm(part), the part being the sum of what the ranks have of it. Where nothing is done
  /// to the part's result it is added as it is made. `result`: room for it.
  template <typename Part>
  void add(const Norm& norm, const NormWeights& weights, Tensor result, const Part& part) const {
    const bool has_norm = norm.kind != Norm::Kind::kNone;
    if (step_.ranks == nullptr && !has_norm && spec_.residual_scale == 1.0f) {
      return part({.residual = hidden_, .out = hidden_});
    }
    part({.residual = {}, .out = result});
    if (step_.ranks != nullptr && !has_norm) {
      return step_.ranks->all_reduce({.x = result, .scale = spec_.residual_scale, .add_to = hidden_}, step_.stream);
    }
    if (step_.ranks != nullptr) step_.ranks->all_reduce({.x = result}, step_.stream);
    apply_norm(step_, norm, weights, result, result);
    step_.ops.add({.x = result, .scale = spec_.residual_scale, .out = hidden_}, step_.stream);
  }

  /// Room for a part's result; float32 only where Workspace::branch is.
  Tensor branch(DType dtype) const {
    return Tensor(step_.memory.branch.data, dtype, {hidden_.shape[0], hidden_.shape[1]});
  }

  const Step& step_;
  const Layer& spec_;
  const LayerWeights& weights_;
  const LayerPositions& positions_;
  const KvLayer& kv_;
  const Tensor hidden_;
};

NormArgs norm_args(const Norm& norm, const NormWeights& weights, Tensor x, Tensor out) {
  return {.kind = norm.kind == Norm::Kind::kRms ? NormKind::kRms : NormKind::kLayer,
          .eps = norm.eps,
          .x = x,
          .weight = weights.weight,
          .bias = weights.bias,
          .out = out};
}

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
  step.ops.norm(norm_args(norm, weights, x, out), step.stream);
  return out;
}

Tensor normed(const Step& step, const PartInput& input) {
  return input.norm == nullptr ? input.x : apply_norm(step, *input.norm, *input.weights, input.x, input.room);
}

void apply_first_linear(const Step& step, const PartInput& input, const FirstLinear& linear) {
  const bool has_norm = input.norm != nullptr && input.norm->kind != Norm::Kind::kNone;
  if (has_norm && step.ops.normed_linear != nullptr) {
    step.ops.normed_linear({.norm = norm_args(*input.norm, *input.weights, input.x, input.room),
                            .weight = &linear.weight,
                            .bias = linear.bias,
                            .has_activation = linear.rule != nullptr,
                            .activation = linear.rule != nullptr ? *linear.rule : ActivationRule{},
                            .up = linear.up,
                            .out = linear.out},
                           step.stream);
    return;
  }
  const Tensor product = linear.rule != nullptr ? linear.up : linear.out;
  step.ops.linear({.x = normed(step, input), .weight = &linear.weight, .bias = linear.bias, .out = product},
                  step.stream);
  if (linear.rule != nullptr) step.ops.activation({.rule = *linear.rule, .x = product, .out = linear.out}, step.stream);
}

Decoder::Decoder(const ModelSpec& spec, const ModelWeights& weights, Backend& backend, Stream& stream, DType dtype,
                 int32_t max_model_len, Communicator* ranks) {
  QUIRE_CHECK((ranks == nullptr ? Rank{} : Rank{ranks->rank(), ranks->num_ranks()}) == spec.rank,
              "share of rank=", spec.rank.index, " of ", spec.rank.num_ranks);
  QUIRE_CHECK(weights.layers.size() == spec.layers.size(), "weights=", weights.layers.size(),
              ", spec=", spec.layers.size());
  state_ = std::make_unique<State>(
      State{spec, weights, backend, dtype, PositionTables(spec, max_model_len, backend, stream), ranks});
}

Decoder::~Decoder() = default;

int64_t Decoder::workspace_bytes(const ModelSpec& spec, const Backend& backend, DType dtype, int32_t max_tokens,
                                 int32_t max_logit_rows) {
  return Workspace(spec, backend, dtype, max_tokens, max_logit_rows, nullptr).bytes;
}

int64_t Decoder::table_bytes(const ModelSpec& spec, int32_t max_model_len) {
  return PositionTables::bytes(spec, max_model_len);
}

Tensor Decoder::forward(const RaggedBatch& batch, std::span<const KvLayer> kv, void* workspace, Stream& stream) const {
  const ModelSpec& spec = state_->spec;
  const ModelWeights& weights = state_->weights;
  const Workspace memory = state_->workspace(batch.num_tokens, 0, workspace);
  const Step step{state_->backend.ops(), batch, memory, stream, state_->ranks};
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
  const Workspace memory = state_->workspace(hidden.shape[0], num_rows, workspace);
  const RaggedBatch no_batch;
  const Step step{state_->backend.ops(), no_batch, memory, stream};

  step.ops.gather({.x = hidden, .rows = rows, .out = memory.gathered}, stream);
  Tensor x = apply_norm(step, spec.final_norm, weights.final_norm, memory.gathered, memory.final_norms);
  if (spec.projects_embedding()) {
    step.ops.linear({.x = x, .weight = &weights.project_out, .out = memory.projected}, stream);
    x = memory.projected;
  }
  const Tensor own = state_->ranks == nullptr ? out : memory.head_share;
  step.ops.linear({.x = x, .weight = &weights.head, .bias = weights.head_bias, .out = own}, stream);
  if (spec.logit_scale != 1.0f || spec.logit_softcap > 0.0f) {
    step.ops.logit_scale({.x = own, .scale = spec.logit_scale, .softcap = spec.logit_softcap}, stream);
  }
  if (state_->ranks != nullptr) state_->ranks->all_gather({.x = own, .out = out}, stream);
}

}  // namespace quire
