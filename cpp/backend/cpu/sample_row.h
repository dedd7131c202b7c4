#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "backend/cpu/sample_cut.h"
#include "backend/cpu/sample_edits.h"
#include "backend/cpu/sample_passes.h"
#include "core/thread_pool.h"

namespace quire::cpu {

/// One worker's memory for rows of V logits. Most of it is touched by rare rows only.
struct SampleMemory {
  float* chunk = nullptr;       ///< [kSampleChunk]
  float* group_best = nullptr;  ///< [groups]
  float* group_order = nullptr;
  ChunkSum* sums = nullptr;  ///< [chunks]
  int32_t* ids = nullptr;    ///< [V]
  Candidate* candidates = nullptr;
  Candidate* order = nullptr;
  LogitEdits::Memory edits;

  static size_t bytes(int64_t vocabulary);
  void assign(void* memory, int64_t vocabulary);
};

/// From one row of logits to its token.
class RowSampler {
 public:
  /// `pool`: shares the passes over the row; null if this already runs on a worker.
  RowSampler(float* logits, int64_t vocabulary, const SampleRow& row, const SampleLists& lists,
             const SampleMemory& memory, const SamplePasses& passes, ThreadPool* pool);

  /// `candidates`: room for num_logprobs + 1.
  void sample(SampledToken& result, SampledCandidate* candidates);

 private:
  /// Softmax of the row: weight of logit x is exp((x - best) * scale).
  struct Softmax {
    float best = 0.0f;
    float scale = 1.0f;
    double total = 0.0;
    bool finite = true;
  };

  /// What top_k, top_p and min_p left.
  struct Kept {
    Candidate worst;
    int64_t count = 0;

    bool has(int32_t id, float logit) const { return !better(worst, {.id = id, .logit = logit, .weight = 0.0f}); }
  };

  Softmax sum_row(float scale) const;
  static double chunk_weight(const ChunkSum& sum, const Softmax& softmax);
  int32_t best_token() const;
  int32_t draw_from_row(double uniform) const;
  int32_t draw_from_kept(double uniform) const;
  void cut(int64_t top_k);
  std::span<Candidate> collect(float least) const;
  float bound_of_best(int64_t count) const;
  float logit_of_weight(double weight) const;
  float log_probability(int32_t id) const;
  int32_t rank(int32_t id) const;
  void report(SampledToken& result, SampledCandidate* candidates) const;

  float* logits_;
  int64_t vocabulary_;
  const SampleRow& row_;
  const SampleLists& lists_;
  const SampleMemory& memory_;
  const SamplePasses& passes_;
  ThreadPool* pool_;
  Softmax softmax_;
  std::optional<Kept> kept_;
};

}  // namespace quire::cpu
