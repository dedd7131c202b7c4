// What a wave does with 16 query rows (or several times 16) and 16 keys at a time: scores, softmax, weighted values.
// Without anything of the GPU but what instructions.h has, so that a test can run it.
//
// The scores are keys * queries^T, so that a lane has neighbouring keys of one query row: just what the product
// values^T * weights^T takes as its second operand, and largest scores and sums are of the lane's row. The result is
// again by lane one row, of neighbouring components.
//
// Keys lie in shared memory as in a page (kv_layout.h), in the order of left_place. Values lie there transposed: of
// four keys, a quad, each component's four numbers are together, 8 bytes, in an order that turns with the place so that
// neither the writes, of eight components by each lane, nor the reads, of sixteen by sixteen lanes, meet a bank twice.
#pragma once

#include <cmath>

#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_hip/common/matrix_core.h"

namespace quire::gpu {

constexpr int kCellKeys = 16;
constexpr int kQuadKeys = 4;
constexpr float kLog2e = 1.4426950408889634f;

/// Where a component's four values lie, in half chunks.
template <int kDim>
__host__ __device__ constexpr int quad_place(int quad, int component) {
  const int turn = (component / 16 + quad * (kDim / 16)) % 8;
  return quad * kDim + component / 8 * 8 + ((component % 8) ^ turn);
}

/// Four keys' values of one chunk of components, into a tile.
template <int kDim>
__device__ inline void store_quad(HalfChunk* tile, const Chunk (&values)[kQuadKeys], int quad, int chunk) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int word = i / 2, shift = i % 2 * 16;
    const auto pair = [&](int low, int high) {
      return (values[low][word] >> shift & 0xffff) | values[high][word] >> shift << 16;
    };
    write_shared(tile + quad_place<kDim>(quad, chunk * 8 + i), HalfChunk{pair(0, 1), pair(2, 3)});
  }
}

/// Where a chunk of a key lies in a tile of kKeys.
template <int kDim, int kKeys, int kLanes>
__host__ __device__ constexpr int key_place(int key, int chunk) {
  return kv_chunk_place(chunk, MatrixCore<kLanes>::left_place(key), kDim / 8, kKeys);
}

/// Operand a of scores: a step of 16 keys, from `first_key` on, of a tile of kKeys.
template <int kDim, int kKeys, int kLanes>
__device__ inline Operand<kLanes> key_operand(const Chunk* tile, int first_key, int step, int lane) {
  using Core = MatrixCore<kLanes>;
  constexpr int kChunks = kDim / 8;
  Operand<kLanes> operand;
#pragma unroll
  for (int i = 0; i < Core::kLaneChunks; ++i) {
    const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
    Chunk read{};
    if (chunk < kChunks) {
      read = read_shared(tile + kv_chunk_place(chunk, first_key + lane % 16, kChunks, kKeys));
    }
    operand.set(i, read);
  }
  return operand;
}

/// Operand a of the weighted values: 16 keys of which `first_quad` is the first quad, 16 components from `first` on.
template <int kDim, int kLanes>
__device__ inline Weights<kLanes> value_operand(const HalfChunk* tile, int first_quad, int first, int lane) {
  constexpr int kQuads = MatrixCore<kLanes>::kInstructionWords / 2;
  Weights<kLanes> operand;
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    const int quad = first_quad + (kLanes == 64 ? lane / 16 : i);
    const HalfChunk read = read_shared(tile + quad_place<kDim>(quad, first + MatrixCore<kLanes>::left_row(lane)));
    operand.words[2 * i] = read[0];
    operand.words[2 * i + 1] = read[1];
  }
  return operand;
}

/// Two weights of a softmax, at most 1 and never negative. A weight that is not a number may become anything: the sum
/// of the weights is not a number then, nor the result.
template <typename T>
__device__ inline uint32_t pack_weights(float low, float high) {
  if constexpr (std::is_same_v<T, BFloat>) {
    const auto round = [](float value) {
      const uint32_t bits = __builtin_bit_cast(uint32_t, value);
      return bits + 0x7fff + (bits >> 16 & 1);
    };
    return round(low) >> 16 | (round(high) & 0xffff0000u);
  } else {
    const auto bits = [](float value) { return uint32_t{__builtin_bit_cast(uint16_t, half_from(value))}; };
    return bits(low) | bits(high) << 16;
  }
}

/// What happens to scores before the softmax, for all rows.
struct ScoreRules {
  float scale;
  float softcap;  ///< 0: none
  bool plain;     ///< neither softcap nor slopes
  float factor;   ///< from what apply() makes, or from plain scores, to exponents of two

  __device__ ScoreRules(float plain_scale, float cap, bool has_slopes)
      : scale(plain_scale),
        softcap(cap),
        plain(cap <= 0.0f && !has_slopes),
        factor(plain ? plain_scale * kLog2e : kLog2e) {}

  /// `distance`: from the query to the key, not positive.
  __device__ float apply(float score, float slope, int distance) const {
    score *= scale;
    if (softcap > 0.0f) {
      const float e = power_of_two(2.0f * kLog2e * fabsf(score) * reciprocal(softcap));
      score = copysignf(softcap * (1.0f - 2.0f * reciprocal(e + 1.0f)), score);
    }
    return score + slope * static_cast<float>(distance);
  }
};

/// Which keys a row sees, [first, end), and where it is.
struct RowView {
  int first, end;
  float slope;
};

/// The softmax of 16 rows so far: unnormalised values, the largest score times log2 e, and the lane's part of the sum.
template <int kDim, int kLanes>
struct RowSums {
  using Core = MatrixCore<kLanes>;
  Result<kLanes> out[kDim / 16];
  float best;
  float sum;

  __device__ void clear() {
    best = -INFINITY;
    sum = 0.0f;
#pragma unroll
    for (auto& part : out) {
#pragma unroll
      for (float& value : part.values) value = 0.0f;
    }
  }

  /// work(score, key - `key` of the first) for each score of the lane.
  template <int kCells, typename Work>
  static __device__ void each(Result<kLanes> (&scores)[kCells], int lane, const Work& work) {
#pragma unroll
    for (int c = 0; c < kCells; ++c) {
#pragma unroll
      for (int i = 0; i < Core::kValues; ++i) work(scores[c].values[i], Core::first_row(lane) + c * kCellKeys + i);
    }
  }

  /// Scores of kCells times 16 keys from `key` on become weights. `masked`: the row may not see all of them.
  template <typename T, int kCells>
  __device__ void add_scores(Result<kLanes> (&scores)[kCells], int key, const RowView& row, bool masked,
                             const ScoreRules& rules, int lane, Weights<kLanes> (&weights)[kCells]) {
    if (!rules.plain) {
      const int distance = key - (row.end - 1);
      each(scores, lane, [&](float& score, int at) { score = rules.apply(score, row.slope, distance + at); });
    }
    float most = best;
    const int first = row.first - key;
    const unsigned count = static_cast<unsigned>(row.end - row.first);
    each(scores, lane, [&](float& score, int at) {
      score *= rules.factor;
      if (masked && static_cast<unsigned>(at - first) >= count) score = -INFINITY;
      most = fmaxf(most, score);
    });
    most = column_max<kLanes>(most);
    // A row whose best score stays shrinks by exactly 1: keys that it does not see leave no trace.
    const float base = most == -INFINITY ? 0.0f : most;
    const float shrink = power_of_two(best - base);
    if (shrink != 1.0f) {
      sum *= shrink;
#pragma unroll
      for (auto& part : out) {
#pragma unroll
        for (float& value : part.values) value *= shrink;
      }
    }
    best = most;
#pragma unroll
    for (int c = 0; c < kCells; ++c) {
      uint32_t packed[Core::kValues / 2];
#pragma unroll
      for (int i = 0; i < Core::kValues; i += 2) {
        const float low = power_of_two(scores[c].values[i] - base);
        const float high = power_of_two(scores[c].values[i + 1] - base);
        sum += low + high;
        packed[i / 2] = pack_weights<T>(low, high);
      }
      weights[c] = weights_of<kLanes>(packed);
    }
  }

  /// The row's sum over all lanes, and what its values are to be multiplied with; `sink`: a score without a value, or
  /// null.
  __device__ float normaliser(const float* sink) const {
    const float total = column_sum<kLanes>(sum);
    if (sink == nullptr) return 1.0f / total;
    const float score = *sink * kLog2e;
    const float most = fmaxf(score, best);
    const float shrink = power_of_two(best - most);
    return shrink / (total * shrink + power_of_two(score - most));
  }
};

}  // namespace quire::gpu
