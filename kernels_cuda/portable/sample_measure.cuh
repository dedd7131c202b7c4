// First kernel of sampling: edits of the logits, and what the second one needs to know of every span and group.
//
// Grid (chunks of 8 spans, rows), one warp per span, 16 logits per lane in registers. A row without edits is read once
// and nothing but the notes is written: bound by memory. A block applies the edits of its own 4096 ids; it reads all of
// the row's lists and keeps what falls to it, so that repeated ids meet in one block's shared memory and no scratch
// memory has to be kept clean.
#pragma once

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/portable/sample_row.cuh"

namespace quire::gpu {

constexpr int kMeasureThreads = 256;
constexpr int kMeasureSpans = kMeasureThreads / 32;
constexpr int kMeasureChunk = kMeasureSpans * kSampleSpan;

__device__ inline bool all_finite(const float (&x)[kLogitsPerLane]) {
  bool finite = true;
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) finite = finite && x[i] < infinity();  // false for NaN as well
  return finite;
}

/// Note the best of each group, and the span's best and weight.
__device__ inline void note_span(const float (&x)[kLogitsPerLane], int begin, float scale, bool finite, int num_groups,
                                 SpanSum* sum_out, uint32_t* groups_out) {
  const int lane = threadIdx.x % 32;
  uint32_t best_image = 0;
#pragma unroll
  for (int j = 0; j < kLogitsPerLane / 4; ++j) {
    const float four = fmaxf(fmaxf(x[4 * j], x[4 * j + 1]), fmaxf(x[4 * j + 2], x[4 * j + 3]));
    const uint32_t image = warp_largest(image_of(four));
    const int group = begin / kSampleGroup + j;
    if (lane == 0 && group < num_groups) groups_out[group] = image;
    best_image = max(best_image, image);
  }
  const float best = from_image(best_image);
  // The largest complement is the smallest id.
  uint32_t best_id = 0;
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) {
    if (x[i] == best) best_id = max(best_id, ~static_cast<uint32_t>(begin + place_in_span(i)));
    sum += expf((x[i] - best) * scale);
  }
  best_id = warp_largest(best_id);
  sum = warp_sum(sum);
  finite = all_of_warp(finite);
  if (lane == 0) {
    SpanSum noted;
    noted.best = best;
    noted.sum = best > minus_infinity() ? sum : 0.0f;
    noted.best_id = static_cast<int32_t>(~best_id);
    noted.finite = finite ? 1 : 0;
    *sum_out = noted;
  }
}

/// A chunk's logits as they are edited, and the counts of its ids: one after the other in the same memory.
union EditMemory {
  float values[kMeasureChunk];
  uint32_t counts[kMeasureChunk];
};

/// Biases on their way through shared memory, where what has default values may not lie.
struct BiasTile {
  int32_t tokens[kMeasureThreads];
  float biases[kMeasureThreads];
};

/// Biases, each by the thread that owns its id, since repeated ones are added in their order; then masks.
__device__ inline void edit_values(float (&x)[kLogitsPerLane], const SampleRow& row, const SampleParams& params,
                                   uint32_t chunk_begin, float* values, BiasTile& tile) {
  const uint32_t in_chunk = threadIdx.x / 32 * kSampleSpan;
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) values[in_chunk + place_in_span(i)] = x[i];
  for (int first = 0; first < row.num_biases; first += kMeasureThreads) {
    const int size = min(kMeasureThreads, row.num_biases - first);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < size) {
      const TokenBias own = params.biases[row.first_bias + first + threadIdx.x];
      tile.tokens[threadIdx.x] = own.token;
      tile.biases[threadIdx.x] = own.bias;
    }
    __syncthreads();
    for (int i = 0; i < size; ++i) {
      const uint32_t place = static_cast<uint32_t>(tile.tokens[i]) - chunk_begin;
      if (place < kMeasureChunk && place % kMeasureThreads == threadIdx.x) values[place] += tile.biases[i];
    }
  }
  __syncthreads();
  const int32_t* const masked = params.ids + row.first_id + row.num_prompt_ids + row.num_output_ids;
  for (int i = threadIdx.x; i < row.num_masked_ids; i += kMeasureThreads) {
    const uint32_t place = static_cast<uint32_t>(masked[i]) - chunk_begin;
    if (place < kMeasureChunk) values[place] = minus_infinity();
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) x[i] = values[in_chunk + place_in_span(i)];
}

/// Each id once for repetition, as often as it stands in the output for frequency.
__device__ inline void penalize(float (&x)[kLogitsPerLane], const SampleRow& row, const SampleParams& params,
                                const RowWants& wants, uint32_t chunk_begin, uint32_t* counts) {
  constexpr uint32_t kInPrompt = 0x80000000u;
  __syncthreads();
  for (int i = threadIdx.x; i < kMeasureChunk; i += kMeasureThreads) counts[i] = 0;
  __syncthreads();
  const int32_t* const prompt = params.ids + row.first_id;
  const int32_t* const output = prompt + row.num_prompt_ids;
  if (wants.repetition) {
    for (int i = threadIdx.x; i < row.num_prompt_ids; i += kMeasureThreads) {
      const uint32_t place = static_cast<uint32_t>(prompt[i]) - chunk_begin;
      if (place < kMeasureChunk) atomicOr(counts + place, kInPrompt);
    }
  }
  for (int i = threadIdx.x; i < row.num_output_ids; i += kMeasureThreads) {
    const uint32_t place = static_cast<uint32_t>(output[i]) - chunk_begin;
    if (place < kMeasureChunk) atomicAdd(counts + place, 1u);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) {
    const uint32_t noted = counts[threadIdx.x / 32 * kSampleSpan + place_in_span(i)];
    const uint32_t count = noted & ~kInPrompt;
    if (wants.repetition && noted != 0) {
      x[i] = x[i] > 0.0f ? __fdiv_rn(x[i], row.repetition_penalty) : __fmul_rn(x[i], row.repetition_penalty);
    }
    if (wants.output && count != 0) {
      x[i] = __fsub_rn(x[i], __fmul_rn(row.frequency_penalty, static_cast<float>(count)));
      x[i] = __fsub_rn(x[i], row.presence_penalty);
    }
  }
}

__device__ inline void store_span(const float (&x)[kLogitsPerLane], float* row, int begin, int vocabulary) {
#pragma unroll
  for (int i = 0; i < kLogitsPerLane; ++i) {
    const int id = begin + place_in_span(i);
    if (id < vocabulary) row[id] = x[i];
  }
}

__global__ void __launch_bounds__(kMeasureThreads) measure_rows(SampleParams params) {
  __shared__ EditMemory memory;
  __shared__ BiasTile bias_tile;
  wait_for_previous();
  let_next_start();
  const int row_index = blockIdx.y;
  const int num_groups = group_count(params.vocabulary);
  const int span = blockIdx.x * kMeasureSpans + threadIdx.x / 32;
  const int begin = span * kSampleSpan;
  float* const logits = params.row_logits(row_index);
  float x[kLogitsPerLane];
  load_span(x, logits, begin, params.vocabulary, params.vectors);
  const SampleRow& row = params.rows[row_index];
  const RowWants wants(row);
  const bool in_row = begin < params.vocabulary;

  bool finite = all_finite(x);
  if (wants.raw && in_row) {
    note_span(x, begin, 1.0f, finite, num_groups, params.row_sums(kRaw, row_index) + span,
              params.row_groups(kRaw, row_index));
  }
  if (wants.edited()) {
    if (wants.raw) store_span(x, params.row_raw_logits(row_index), begin, params.vocabulary);
    const auto chunk_begin = static_cast<uint32_t>(blockIdx.x * kMeasureChunk);
    if (wants.values) edit_values(x, row, params, chunk_begin, memory.values, bias_tile);
    if (wants.repetition || wants.output) penalize(x, row, params, wants, chunk_begin, memory.counts);
    finite = finite && all_finite(x);
    store_span(x, logits, begin, params.vocabulary);
  }
  if (in_row) {
    note_span(x, begin, wants.scale, finite, num_groups, params.row_sums(kChanged, row_index) + span,
              params.row_groups(kChanged, row_index));
  }
}

}  // namespace quire::gpu
