#include "runtime/runner.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "kv/layout.h"

namespace quire {
namespace {

/// The largest step.
StepShape largest_shape(const RunnerConfig& config) {
  // Every token may ask for the log-probability of a prompt, and every sequence for a new token beside it. A padded
  // step is no larger than the largest one that is not.
  return {.num_tokens = config.max_num_batched_tokens,
          .num_sequences = std::min(padded_size(config.max_num_seqs), config.max_num_batched_tokens),
          .num_rows = config.max_num_batched_tokens + config.max_num_seqs};
}

int32_t blocks_per_sequence(const RunnerConfig& config) {
  return blocks_for_tokens(config.max_model_len, config.block_size);
}

int32_t max_candidates(const ModelSpec& spec, const RunnerConfig& config) {
  return std::min(config.max_logprobs, spec.vocab) + 1;
}

size_t logits_bytes(const ModelSpec& spec, int32_t num_rows) {
  return static_cast<size_t>(spec.vocab) * static_cast<size_t>(num_rows) * sizeof(float);
}

}  // namespace

/// Logits of a whole prompt or batch could take gigabytes at large vocabularies; so many rows are had at a time. A
/// device beside the host reads the head once per slice, and should do so once per step of many sequences.
int32_t Runner::rows_per_slice(const ModelSpec& spec, const Backend& backend, const RunnerConfig& config) {
  constexpr int64_t kLogitsBytes = 32 << 20;
  constexpr int64_t kShareOfMemory = 512;
  constexpr int64_t kFewestRows = 8;
  if (config.rows_per_slice > 0) return config.rows_per_slice;
  const int64_t bytes =
      backend.runs_behind() ? std::max(kLogitsBytes, backend.total_memory() / kShareOfMemory) : kLogitsBytes;
  const int64_t row_bytes = int64_t{spec.vocab} * static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::max(kFewestRows, bytes / row_bytes);
  return static_cast<int32_t>(std::min<int64_t>(rows, std::max<int64_t>(kFewestRows, config.max_num_batched_tokens)));
}

Runner::Runner(const ModelSpec& spec, ModelWeights weights, KvMemory swapped_kv, std::unique_ptr<Backend> backend,
               std::unique_ptr<Stream> stream, const RunnerConfig& config, std::unique_ptr<Communicator> ranks)
    : spec_(spec),
      config_(config),
      backend_(std::move(backend)),
      stream_(std::move(stream)),
      ranks_(std::move(ranks)),
      weights_(std::move(weights)),
      kv_(spec_, *backend_, KvPlace::kDevice, config.kv_dtype, config.block_size, config.num_blocks),
      swapped_kv_(std::move(swapped_kv)),
      rows_per_slice_(rows_per_slice(spec_, *backend_, config)),
      workspace_(backend_->allocate(
          Decoder::workspace_bytes(spec_, *backend_, config.dtype, config.max_num_batched_tokens, rows_per_slice_),
          MemoryKind::kWorkspace)),
      logits_(backend_->allocate(logits_bytes(spec_, rows_per_slice_), MemoryKind::kWorkspace)),
      sample_scratch_(
          backend_->allocate(backend_->sample_scratch_bytes(rows_per_slice_, spec_.vocab), MemoryKind::kWorkspace)),
      inputs_(*backend_, largest_shape(config), config.block_size, blocks_per_sequence(config), config.max_model_len),
      outputs_(*backend_, largest_shape(config).num_rows, max_candidates(spec_, config)),
      decoder_(spec_, weights_, *backend_, *stream_, config.dtype, config.max_model_len, ranks_.get()),
      graphs_(*backend_) {
  // Enough for every list of copies: nothing may keep a planned move from being made.
  const auto most_copies = static_cast<size_t>(std::max(config.num_swap_blocks, config.max_num_seqs));
  copy_from_.reserve(most_copies);
  copy_to_.reserve(most_copies);
}

Runner::~Runner() {
  try {
    stream_->synchronize();  // steps on their way use the memory that goes now
  } catch (const std::exception& error) {
    log(LogLevel::kWarning, detail::join_message("[runtime] the last steps have failed: ", error.what()));
  }
}

int64_t Runner::workspace_bytes(const ModelSpec& spec, const Backend& backend, const RunnerConfig& config) {
  const int32_t rows = rows_per_slice(spec, backend, config);
  const StepShape largest = largest_shape(config);
  return Decoder::workspace_bytes(spec, backend, config.dtype, config.max_num_batched_tokens, rows) +
         static_cast<int64_t>(logits_bytes(spec, rows)) +
         static_cast<int64_t>(backend.sample_scratch_bytes(rows, spec.vocab)) +
         StepInputs::bytes(largest, blocks_per_sequence(config)) +
         StepOutputs::bytes(largest.num_rows, max_candidates(spec, config)) +
         Decoder::table_bytes(spec, config.max_model_len);
}

void Runner::launch(const StepPlan& plan, const SampleBatch& samples) {
  QUIRE_CHECK(num_in_flight() < max_in_flight(), "steps on their way=", num_in_flight());
  QUIRE_CHECK(plan.num_tokens > 0 && plan.num_tokens <= config_.max_num_batched_tokens, "num_tokens=", plan.num_tokens,
              ", max_num_batched_tokens=", config_.max_num_batched_tokens);
  try {
    enqueue_step(plan, samples);
  } catch (...) {
    stream_->synchronize();
    throw;
  }
}

void Runner::enqueue_step(const StepPlan& plan, const SampleBatch& samples) {
  move_blocks(plan);
  const StepShape shape = shape_of(plan, samples);
  const StepArgs args = inputs_.load(plan, samples, shape, *stream_);
  if (recorded_size(plan, samples) > 0) {
    run_recorded(args);
  } else {
    compute(args, shape.num_rows);
  }
  const bool with_candidates =
      std::any_of(samples.rows.begin(), samples.rows.end(), [](const SampleRow& row) { return row.num_logprobs >= 0; });
  outputs_.fetch(samples.size(), with_candidates, *stream_);
}

/// The size to which a step is padded that can be recorded: one token and one row of each sequence, in order. 0: it
/// cannot, or the padding does not fit.
int32_t Runner::recorded_size(const StepPlan& plan, const SampleBatch& samples) const {
  if (!config_.record_graphs || !backend_->records_graphs()) return 0;
  const auto num_sequences = static_cast<int32_t>(plan.sequences.size());
  if (plan.num_tokens != num_sequences || samples.size() != num_sequences) return 0;
  for (int32_t r = 0; r < num_sequences; ++r) {
    if (samples.token_rows[r] != r) return 0;
  }
  const int32_t size = padded_size(num_sequences);
  return size <= config_.max_num_batched_tokens ? size : 0;
}

/// Padding included.
StepShape Runner::shape_of(const StepPlan& plan, const SampleBatch& samples) const {
  if (const int32_t size = recorded_size(plan, samples); size > 0) return {size, size, size};
  return {plan.num_tokens, static_cast<int32_t>(plan.sequences.size()), samples.size()};
}

void Runner::make_room(const StepPlan& plan, const SampleBatch& samples) {
  inputs_.make_room(plan, samples, shape_of(plan, samples), *stream_);
  drop_old_graphs();
}

/// Those of memory that has been replaced.
void Runner::drop_old_graphs() {
  if (graphs_generation_ == inputs_.generation()) return;
  graphs_.clear();
  graphs_generation_ = inputs_.generation();
}

void Runner::run_recorded(const StepArgs& args) {
  drop_old_graphs();
  graphs_.run(args.batch, *stream_, [this, &args] { compute(args, args.batch.num_sequences); });
}

void Runner::move_blocks(const StepPlan& plan) {
  copy_blocks(plan.swap_out, kv_, swapped_kv_);
  copy_blocks(plan.swap_in, swapped_kv_, kv_);
  copy_blocks(plan.copies, kv_, kv_);
}

void Runner::copy_blocks(std::span<const BlockCopy> copies, const KvMemory& from, const KvMemory& to) {
  if (copies.empty()) return;
  copy_from_.clear();
  copy_to_.clear();
  for (const BlockCopy& copy : copies) {
    copy_from_.push_back(copy.from);
    copy_to_.push_back(copy.to);
  }
  backend_->ops().copy_blocks({.layers = from.layers(), .from = copy_from_, .to = copy_to_, .to_layers = to.layers()},
                              *stream_);
}

void Runner::compute(const StepArgs& args, int32_t num_rows) {
  const Ops& ops = backend_->ops();
  ops.resolve({.ids = args.unresolved, .count = args.num_unresolved, .tokens = outputs_.tokens()}, *stream_);
  const Tensor hidden = decoder_.forward(args.batch, kv_.layers(), workspace_.data(), *stream_);
  for (int32_t first = 0; first < num_rows; first += rows_per_slice_) {
    const int32_t count = std::min(rows_per_slice_, num_rows - first);
    const Tensor logits(logits_.data(), DType::kFloat32, {count, spec_.vocab});
    decoder_.logits(hidden, args.token_rows + first, count, logits, workspace_.data(), *stream_);
    ops.sample({.logits = logits,
                .rows = args.rows + first,
                .ids = args.ids,
                .biases = args.biases,
                .tokens = outputs_.tokens() + first,
                .candidates = outputs_.candidates() + int64_t{first} * outputs_.max_candidates(),
                .max_candidates = outputs_.max_candidates(),
                .scratch = sample_scratch_.data()},
               *stream_);
  }
}

}  // namespace quire
