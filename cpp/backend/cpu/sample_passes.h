#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "backend/ops/sample.h"

namespace quire::cpu {

/// A row of logits is summed in chunks of so many, whatever the number of threads, so that a row's result is fixed.
constexpr int64_t kSampleChunk = 4096;
/// Every so many logits the largest is noted: a bound that spares most of the row when the best ones are looked for.
constexpr int64_t kSampleGroup = 64;
static_assert(kSampleChunk % kSampleGroup == 0);

struct ChunkSum {
  float best = 0.0f;   ///< largest logit
  float sum = 0.0f;    ///< of exp((x - best) * scale); 0 if best is minus infinity
  bool finite = true;  ///< no NaN and no plus infinity
};

/// What sampling does over many logits, one set of functions per instruction set. All sizes >= 1.
struct SamplePasses {
  /// Sums up a chunk and writes the largest of each of its groups.
  ChunkSum (*sum)(const float* x, int64_t size, float scale, float* group_best);
  /// out[i] = exp((x[i] - best) * scale), with best >= x[i].
  void (*weigh)(const float* x, int64_t size, float scale, float best, float* out);
  /// Writes the ids of all x[id] >= least, in rising order; returns how many.
  int64_t (*collect)(const float* x, int64_t size, float least, int32_t* ids);
  /// How many x are larger than `value`.
  int64_t (*count_larger)(const float* x, int64_t size, float value);
};

/// The sample op over those functions.
void run_sample(const SampleArgs& args, Stream& stream, const SamplePasses& passes);

}  // namespace quire::cpu
