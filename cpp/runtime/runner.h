#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "core/buffer.h"
#include "model/decoder.h"
#include "runtime/decode_graphs.h"
#include "runtime/kv_memory.h"
#include "runtime/sampler.h"
#include "runtime/step_inputs.h"
#include "runtime/step_outputs.h"
#include "sched/step_plan.h"
#include "spec/rope.h"
#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

struct RunnerConfig {
  int32_t max_num_batched_tokens = 512;
  int32_t max_num_seqs = 256;
  int32_t max_model_len = 2048;
  int32_t max_logprobs = 20;  ///< most that a row asks for
  int32_t block_size = 16;
  int32_t num_blocks = 0;
  int32_t num_swap_blocks = 0;    ///< of the host
  DType dtype = DType::kFloat32;  ///< what the model computes in
  DType kv_dtype = DType::kFloat32;
  /// Rows of logits that are had at a time, the same on all ranks; 0: rows_per_slice().
  int32_t rows_per_slice = 0;
  /// Record steps of one token per sequence and run them as one, where the backend can.
  bool record_graphs = true;
};

/// One rank's work: owns a model, or its share of one, on a device and computes steps. Memory is taken at construction.
/// The runners of all ranks must get the same calls, in the same order, each on a thread of its own.
///
/// A step is launched, which enqueues all that it does, and later collected, which waits for its results. Where ops run
/// behind the host two steps may be on their way: the second is launched before the first one's tokens are known, and
/// names them as -1 - row, in its tokens and in its lists.
/// Thread safety: one caller at a time.
class Runner {
 public:
  /// `weights` lie in `backend`'s memory, `swapped_kv` is room for config.num_swap_blocks, `ranks` is null for a whole
  /// model. Raises: kOutOfMemory, kUnsupported.
  Runner(const ModelSpec& spec, ModelWeights weights, KvMemory swapped_kv, std::unique_ptr<Backend> backend,
         std::unique_ptr<Stream> stream, const RunnerConfig& config, std::unique_ptr<Communicator> ranks = nullptr);
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  ~Runner();

  /// Room for the blocks of swapped-out sequences: made beside the weights, since it takes time. Raises: kOutOfMemory.
  static KvMemory swap_space(const ModelSpec& spec, Backend& backend, const RunnerConfig& config) {
    return {spec, backend, KvPlace::kHost, config.kv_dtype, config.block_size, config.num_swap_blocks};
  }

  /// Bytes of the backend's memory that a runner takes beside weights and KV cache, to the byte as long as no step
  /// brings unusually long lists (StepInputs). `config.num_blocks` is not looked at.
  static int64_t workspace_bytes(const ModelSpec& spec, const Backend& backend, const RunnerConfig& config);

  /// Rows of logits that suit a backend's memory.
  static int32_t rows_per_slice(const ModelSpec& spec, const Backend& backend, const RunnerConfig& config);

  /// Which of the model's sets of keys a prompt of that length is computed with (Sequence::key_set).
  int32_t key_set(int64_t prompt_length) const { return rope_set(spec_, prompt_length); }

  /// Steps that may be on their way: 2 if it pays to launch one before the last one is collected, else 1.
  int32_t max_in_flight() const { return backend_->runs_behind() ? 2 : 1; }
  int32_t num_in_flight() const { return outputs_.num_in_flight(); }

  /// Whether launch() finds room for what the step takes from the host; if not, it replaces memory, unless make_room()
  /// has done so. Ranks must not in the middle of a step: to give memory back, a device may wait for all others.
  bool has_room(const StepPlan& plan, const SampleBatch& samples) const {
    return inputs_.has_room(plan, samples, shape_of(plan, samples));
  }
  /// Raises: kOutOfMemory.
  void make_room(const StepPlan& plan, const SampleBatch& samples);

  /// Enqueue a step: moves of blocks, all its tokens, logits of the rows of `samples`, and their tokens. Neither
  /// argument is needed any more when it returns. If it raises, the step is not on its way, and the device has done
  /// with what had been enqueued of it; blocks have been moved nevertheless, unless kInternal or kDevice is raised.
  void launch(const StepPlan& plan, const SampleBatch& samples);

  /// Enqueue the moves of a plan that computes nothing.
  void move_blocks(const StepPlan& plan);

  /// Wait for the oldest step on its way. Its results are valid until the next launch() but one.
  /// If it raises, that step is not on its way any more.
  StepResults collect() { return outputs_.wait(); }

  int64_t num_recorded_graphs() const { return graphs_.num_recorded(); }

  /// Let the other ranks wait for this one no more. From any thread.
  void abort() noexcept {
    if (ranks_ != nullptr) ranks_->abort();
  }

 private:
  void enqueue_step(const StepPlan& plan, const SampleBatch& samples);
  void copy_blocks(std::span<const BlockCopy> copies, const KvMemory& from, const KvMemory& to);
  int32_t recorded_size(const StepPlan& plan, const SampleBatch& samples) const;
  StepShape shape_of(const StepPlan& plan, const SampleBatch& samples) const;
  void drop_old_graphs();
  void run_recorded(const StepArgs& args);
  void compute(const StepArgs& args, int32_t num_rows);

  // In the order of dependence: what stands below uses what stands above.
  const ModelSpec spec_;
  const RunnerConfig config_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<Communicator> ranks_;
  ModelWeights weights_;
  KvMemory kv_;
  KvMemory swapped_kv_;
  int32_t rows_per_slice_;
  Buffer workspace_;
  Buffer logits_;
  Buffer sample_scratch_;
  StepInputs inputs_;
  StepOutputs outputs_;
  Decoder decoder_;
  DecodeGraphs graphs_;
  int64_t graphs_generation_ = 0;  ///< of the inputs that graphs have been recorded with
  std::vector<int32_t> copy_from_, copy_to_;
};

}  // namespace quire
