// What the two kernels of sampling share: how a row of logits is cut, how tokens are ordered, and what is noted of a
// row.
//
// A row is read in groups of 128 logits (one 16-byte load of a warp) and spans of 512 (what a warp holds in registers).
// Of each group the largest logit is noted: rows that look for the best few read the groups that can hold them and no
// others. Of each span the sum of weights is noted: a draw walks over spans and reads one. Neither depends on the
// number of rows, so a row's result is its own.
#pragma once

#include <cstdint>

#include "backend/ops/sample.h"
#include "kernels_cuda/common/reduce.cuh"

namespace quire::gpu {

constexpr int kSampleGroup = 128;
constexpr int kSampleSpan = 512;
constexpr int kLogitsPerLane = kSampleSpan / 32;
/// As in SamplingParams: below it the best token is taken.
constexpr float kGreedyTemperature = 1e-5f;

__host__ __device__ constexpr int span_count(int vocabulary) {
  return (vocabulary + kSampleSpan - 1) / kSampleSpan;
}
__host__ __device__ constexpr int group_count(int vocabulary) {
  return (vocabulary + kSampleGroup - 1) / kSampleGroup;
}

struct SpanSum {
  float best = 0.0f;
  float sum = 0.0f;  ///< of exp((logit - best) * scale)
  int32_t best_id = 0;
  int32_t finite = 0;
};

/// A row's notes; the second set is of the logits before edits and temperature, where a row asks for raw_logprobs.
enum LogitState { kChanged = 0, kRaw = 1 };

struct SampleParams {
  float* logits;  ///< [R, V]
  int64_t stride;
  int32_t num_rows;
  int32_t vocabulary;
  bool vectors;  ///< rows can be read 16 bytes at a time, to the end
  const SampleRow* rows;
  const int32_t* ids;
  const TokenBias* biases;
  SampledToken* tokens;
  SampledCandidate* candidates;
  int32_t max_candidates;

  SpanSum* sums;         ///< [2, R, spans]
  uint32_t* group_best;  ///< [2, R, groups], as image_of()
  float* raw_logits;     ///< [R, V], of rows that were edited and ask for raw_logprobs

  __device__ SpanSum* row_sums(LogitState state, int row) const {
    return sums + (static_cast<int64_t>(state) * num_rows + row) * span_count(vocabulary);
  }
  __device__ uint32_t* row_groups(LogitState state, int row) const {
    return group_best + (static_cast<int64_t>(state) * num_rows + row) * group_count(vocabulary);
  }
  __device__ float* row_logits(int row) const { return logits + row * stride; }
  __device__ float* row_raw_logits(int row) const { return raw_logits + static_cast<int64_t>(row) * vocabulary; }
};

/// What a row's numbers ask for.
struct RowWants {
  bool given, greedy;
  bool values, repetition, output;  ///< edits: biases or masks; the penalties
  bool raw;                         ///< log-probabilities of another distribution than the one drawn from
  float scale;

  __device__ explicit RowWants(const SampleRow& row) {
    given = row.given_token >= 0;
    greedy = given || row.temperature < kGreedyTemperature;
    values = !given && (row.num_biases > 0 || row.num_masked_ids > 0);
    repetition = !given && row.repetition_penalty != 1.0f && row.num_prompt_ids + row.num_output_ids > 0;
    output = !given && (row.frequency_penalty != 0.0f || row.presence_penalty != 0.0f) && row.num_output_ids > 0;
    scale = greedy ? 1.0f : __fdiv_rn(1.0f, row.temperature);
    raw = !given && row.raw_logprobs != 0 && (edited() || scale != 1.0f);
  }
  __device__ bool edited() const { return values || repetition || output; }
};

__device__ inline float minus_infinity() {
  return __int_as_float(0xff800000);
}
__device__ inline float infinity() {
  return __int_as_float(0x7f800000);
}

/// Integers in the order of the floats; both zeros are one number.
__device__ inline uint32_t image_of(float x) {
  const uint32_t bits = __float_as_uint(__fadd_rn(x, 0.0f));
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ inline float from_image(uint32_t image) {
  return __uint_as_float((image & 0x80000000u) != 0 ? image ^ 0x80000000u : ~image);
}

/// Tokens in the order in which they are kept: the larger logit first, of equal ones the smaller id.
using TokenKey = uint64_t;
__device__ inline TokenKey key_of(uint32_t image, uint32_t id) {
  return uint64_t{image} << 32 | (0xffffffffu - id);
}
__device__ inline int32_t id_of(TokenKey key) {
  return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}
__device__ inline float logit_of(TokenKey key) {
  return from_image(static_cast<uint32_t>(key >> 32));
}

/// A lane's logit i of a span lies here.
__device__ inline int place_in_span(int i) {
  return i / 4 * kSampleGroup + static_cast<int>(threadIdx.x % 32) * 4 + i % 4;
}

/// A span's logits over a warp; beyond the row's end minus infinity.
__device__ inline void load_span(float (&x)[kLogitsPerLane], const float* row, int begin, int vocabulary,
                                 bool vectors) {
  if (vectors && begin + kSampleSpan <= vocabulary) {
    float4 four[kLogitsPerLane / 4];
#pragma unroll
    for (int j = 0; j < kLogitsPerLane / 4; ++j) {
      four[j] = *reinterpret_cast<const float4*>(row + begin + place_in_span(4 * j));
    }
#pragma unroll
    for (int j = 0; j < kLogitsPerLane / 4; ++j) {
      x[4 * j] = four[j].x;
      x[4 * j + 1] = four[j].y;
      x[4 * j + 2] = four[j].z;
      x[4 * j + 3] = four[j].w;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) {
    const int id = begin + place_in_span(i);
    x[i] = id < vocabulary ? row[id] : minus_infinity();
  }
}

}  // namespace quire::gpu
