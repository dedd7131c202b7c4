#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "model/decoder.h"
#include "runtime/batch.h"
#include "runtime/kv_memory.h"
#include "sched/step_plan.h"
#include "spec/rope.h"
#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

struct RunnerConfig {
  int32_t max_num_batched_tokens = 512;
  int32_t max_model_len = 2048;
  int32_t block_size = 16;
  int32_t num_blocks = 0;
  DType kv_dtype = DType::kFloat32;
};

/// One rank's work: owns a model on a device and computes steps. Memory is taken at construction.
/// Thread safety: one caller at a time.
class Runner {
 public:
  /// `weights` lie in `backend`'s memory. Raises: kOutOfMemory, kUnsupported.
  Runner(const ModelSpec& spec, ModelWeights weights, std::unique_ptr<Backend> backend, std::unique_ptr<Stream> stream,
         const RunnerConfig& config);
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  /// Bytes that a runner of this model takes beside weights and KV cache: activations, logits, tables of positions.
  static int64_t workspace_bytes(const ModelSpec& spec, int32_t max_num_batched_tokens, int32_t max_model_len);

  /// Which of the model's sets of keys a prompt of that length is computed with (Sequence::key_set).
  int32_t key_set(int64_t prompt_length) const { return rope_set(spec_, prompt_length); }

  /// Copy blocks, then compute all tokens of the step, at most max_num_batched_tokens.
  void forward(const StepPlan& plan);

  /// Turn rows of the step's tokens into tokens or log-probabilities. `rows`: indices into the step's tokens, any
  /// number and in any order, repetitions allowed; `how` and `results` go with them. Logits exist for a few rows at a
  /// time only.
  void sample(std::span<const int32_t> rows, std::span<const SampleRow> how, std::span<SampleResult> results);

 private:
  void copy_blocks(std::span<const BlockCopy> copies);
  const int32_t* upload(std::span<const int32_t> rows);

  // In the order of dependence: what stands below uses what stands above.
  ModelSpec spec_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  ModelWeights weights_;
  KvMemory kv_;
  int32_t max_num_batched_tokens_;
  int32_t rows_per_slice_;
  Buffer workspace_;
  Buffer logits_;
  Buffer row_indices_;
  BatchBuilder batch_;
  Decoder decoder_;
  Tensor hidden_;
  std::vector<int32_t> copy_from_, copy_to_;
};

}  // namespace quire
