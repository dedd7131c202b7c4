#include "runtime/runner.h"

#include <algorithm>
#include <utility>

#include "core/check.h"

namespace quire {
namespace {

/// Logits of a whole prompt or batch could take gigabytes at large vocabularies; so many rows are had at a time.
int32_t rows_per_slice(const ModelSpec& spec, int32_t max_num_batched_tokens) {
  constexpr int64_t kLogitsBytes = 32 << 20;
  constexpr int64_t kFewestRows = 8;
  const int64_t row_bytes = int64_t{spec.vocab} * static_cast<int64_t>(sizeof(float));
  const int64_t rows = std::max(kFewestRows, kLogitsBytes / row_bytes);
  return static_cast<int32_t>(std::min<int64_t>(rows, std::max<int64_t>(kFewestRows, max_num_batched_tokens)));
}

int64_t logits_bytes(const ModelSpec& spec, int32_t num_rows) {
  return int64_t{spec.vocab} * num_rows * static_cast<int64_t>(sizeof(float));
}

}  // namespace

Runner::Runner(const ModelSpec& spec, ModelWeights weights, std::unique_ptr<Backend> backend,
               std::unique_ptr<Stream> stream, const RunnerConfig& config)
    : spec_(spec),
      backend_(std::move(backend)),
      stream_(std::move(stream)),
      weights_(std::move(weights)),
      kv_(spec_, *backend_, config.kv_dtype, config.block_size, config.num_blocks),
      max_num_batched_tokens_(config.max_num_batched_tokens),
      rows_per_slice_(rows_per_slice(spec_, config.max_num_batched_tokens)),
      workspace_(backend_->allocate(Decoder::workspace_bytes(spec_, max_num_batched_tokens_, rows_per_slice_),
                                    MemoryKind::kWorkspace)),
      logits_(backend_->allocate(logits_bytes(spec_, rows_per_slice_), MemoryKind::kWorkspace)),
      batch_(*backend_, config.block_size, config.max_model_len),
      decoder_(spec_, weights_, *backend_, *stream_, config.max_model_len) {}

int64_t Runner::workspace_bytes(const ModelSpec& spec, int32_t max_num_batched_tokens, int32_t max_model_len) {
  const int32_t rows = rows_per_slice(spec, max_num_batched_tokens);
  return Decoder::workspace_bytes(spec, max_num_batched_tokens, rows) + logits_bytes(spec, rows) +
         Decoder::table_bytes(spec, max_model_len);
}

void Runner::copy_blocks(std::span<const BlockCopy> copies) {
  if (copies.empty()) return;
  copy_from_.clear();
  copy_to_.clear();
  for (const BlockCopy& copy : copies) {
    copy_from_.push_back(copy.from);
    copy_to_.push_back(copy.to);
  }
  backend_->ops().copy_blocks({.layers = kv_.layers(), .from = copy_from_, .to = copy_to_}, *stream_);
}

void Runner::forward(const StepPlan& plan) {
  copy_blocks(plan.copies);
  const RaggedBatch batch = batch_.build(plan.sequences, *stream_);
  QUIRE_CHECK(batch.num_tokens <= max_num_batched_tokens_, "num_tokens=", batch.num_tokens,
              ", max_num_batched_tokens=", max_num_batched_tokens_);
  hidden_ = decoder_.forward(batch, kv_.layers(), workspace_.data(), *stream_);
}

const int32_t* Runner::upload(std::span<const int32_t> rows) {
  if (row_indices_.bytes() < rows.size_bytes()) {
    row_indices_ = Buffer();
    row_indices_ = backend_->allocate(2 * rows.size_bytes(), MemoryKind::kWorkspace);
  }
  backend_->copy_to_device(row_indices_.data(), rows.data(), rows.size_bytes(), *stream_);
  return static_cast<const int32_t*>(row_indices_.data());
}

void Runner::sample(std::span<const int32_t> rows, std::span<const SampleRow> how, std::span<SampleResult> results) {
  QUIRE_CHECK(rows.size() == how.size() && rows.size() == results.size(), "rows=", rows.size(), ", how=", how.size(),
              ", results=", results.size());
  if (rows.empty()) return;
  const int32_t* indices = upload(rows);
  const auto slice_rows = static_cast<size_t>(rows_per_slice_);
  for (size_t first = 0; first < rows.size(); first += slice_rows) {
    const size_t count = std::min(slice_rows, rows.size() - first);
    const auto num_rows = static_cast<int32_t>(count);
    const Tensor logits(logits_.data(), DType::kFloat32, {num_rows, spec_.vocab});
    decoder_.logits(hidden_, indices + first, num_rows, logits, workspace_.data(), *stream_);
    backend_->ops().sample(
        {.logits = logits, .rows = how.subspan(first, count), .results = results.subspan(first, count)}, *stream_);
  }
  stream_->synchronize();
}

}  // namespace quire
