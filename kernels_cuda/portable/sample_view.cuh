// A row as the second kernel of sampling sees it, the shared memory of its block, and sums over that block.
#pragma once

#include "kernels_cuda/portable/sample_row.cuh"

namespace quire::gpu {

constexpr int kChooseThreads = 512;
constexpr int kChooseWarps = kChooseThreads / 32;
constexpr int kCapacity = 4096;   ///< keys that are sorted at once
constexpr int kBins = 8192;       ///< of a pass over a row
constexpr int kGroupBins = 2048;  ///< of a pass over groups
constexpr int kMaxSpans = 4096;
constexpr int kMostInGroups = 1024;  ///< more than that are not looked for by groups
static_assert(kChooseThreads == kSampleSpan, "a thread looks at one logit of the span that is drawn from");

struct ChooseMemory {
  union {
    TokenKey keys[kCapacity];
    uint32_t bins[kBins];
    double masses[kMaxSpans];
  };
  double warp_sums[kChooseWarps];
  TokenKey warp_keys[kChooseWarps];
  double rest;
  int first, last, other;
  int num_keys;
  TokenKey key;
};

/// A row in one of its states, as a distribution: the weight of logit x is exp((x - best) * scale).
struct RowView {
  const float* logits;
  const uint32_t* group_best;
  const SpanSum* sums;
  int vocabulary;
  bool vectors;
  float scale;
  float best;
  int32_t best_id;
  double total;

  __device__ float weight(float x) const { return expf((x - best) * scale); }
  __device__ float log_probability(float x, double log_total) const {
    return static_cast<float>((double{x} - best) * scale - log_total);
  }
};

/// What is left to draw from: keys from `worst` on with at least that weight.
struct Kept {
  TokenKey worst = 0;
  float least_weight = 0.0f;
  int count = 0;

  __device__ bool has(TokenKey key, float weight) const { return key >= worst && weight >= least_weight; }
};

/// Numbers of equal bins from `top` downwards; what lies below is in the last one. The same for a logit wherever it is
/// asked, and never falling with the logit: so a bin's number serves as a bound.
struct LogitBins {
  float top;
  float per_unit;
  int last;
  __device__ int of(float x) const { return static_cast<int>(fminf((top - x) * per_unit, static_cast<float>(last))); }
};

/// Sum over the block, to all; in a fixed order.
__device__ inline double block_total(double value, ChooseMemory& memory) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value += shuffle_xor(value, offset);
  if (threadIdx.x % 32 == 0) memory.warp_sums[threadIdx.x / 32] = value;
  __syncthreads();
  double total = 0.0;
#pragma unroll
  for (int warp = 0; warp < kChooseWarps; ++warp) total += memory.warp_sums[warp];
  __syncthreads();
  return total;
}

/// Sum of the values of all threads before this one.
__device__ inline double block_sum_before(double value, ChooseMemory& memory) {
  const int lane = threadIdx.x % 32;
  double through = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const double below = shuffle_up(through, offset);
    if (lane >= offset) through += below;
  }
  double before = shuffle_up(through, 1);
  if (lane == 0) before = 0.0;
  if (lane == 31) memory.warp_sums[threadIdx.x / 32] = through;
  __syncthreads();
  double warps = 0.0;
  for (int warp = 0; warp < static_cast<int>(threadIdx.x / 32); ++warp) warps += memory.warp_sums[warp];
  __syncthreads();
  return warps + before;
}

__device__ inline TokenKey block_largest(TokenKey key, ChooseMemory& memory) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const TokenKey other = shuffle_xor(key, offset);
    key = other > key ? other : key;
  }
  if (threadIdx.x % 32 == 0) memory.warp_keys[threadIdx.x / 32] = key;
  __syncthreads();
#pragma unroll
  for (int warp = 0; warp < kChooseWarps; ++warp) key = memory.warp_keys[warp] > key ? memory.warp_keys[warp] : key;
  __syncthreads();
  return key;
}

/// Where a search puts the first and the last place that it finds.
__device__ inline void reset_places(ChooseMemory& memory) {
  if (threadIdx.x == 0) {
    memory.first = memory.other = INT32_MAX;
    memory.last = -1;
  }
  __syncthreads();
}

}  // namespace quire::gpu
