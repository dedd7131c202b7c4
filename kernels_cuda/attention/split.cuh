// Sequences with one query whose keys are shared out over blocks, and how the parts of a softmax are joined.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/common/instructions.cuh"

namespace quire::gpu {

/// Rows of a part: query heads of one kv head. A part of a (sequence, kv head, tile of heads) pair is, in float32: for
/// each row the largest score (times log2 e), then for each the sum of weights, then for each the weighted values.
constexpr int kPartRows = 16;

/// The work of one launch: sequences with one query, cut into units of kUnit keys at fixed positions. Lists in shared
/// memory, by sequence.
template <int kUnit>
struct KeySchedule {
  int* units_before;  ///< [S + 1]
  int* contexts;
  int* tables;  ///< where a sequence's blocks begin
  int* tokens;
  int sequences;
  int pairs;  ///< of one sequence
  int window;

  static __host__ __device__ size_t bytes(int sequences) { return (4 * sequences + 1) * sizeof(int); }

  __device__ KeySchedule(int* memory, const AttentionProblem& problem, int tiles)
      : units_before(memory),
        contexts(units_before + problem.num_sequences + 1),
        tables(contexts + problem.num_sequences),
        tokens(tables + problem.num_sequences),
        sequences(problem.num_sequences),
        pairs(problem.num_kv_heads * tiles),
        window(problem.window) {}

  __device__ int first_key(int s) const { return window > 0 ? max(0, contexts[s] - window) : 0; }
  __device__ int units_of(int s) const { return units_before[s + 1] - units_before[s]; }
  __device__ int units() const { return units_before[sequences] * pairs; }
};

/// A unit of the work.
struct UnitPlace {
  int sequence;
  int pair;  ///< of the sequence: kv head and tile of rows
  int unit;  ///< of the pair, from the first that the query sees
};

/// Of a unit of one of the sequences from `low` to `high`.
template <int kUnit>
__device__ UnitPlace place_of(const KeySchedule<kUnit>& schedule, int unit, int low, int high) {
  while (low < high) {
    const int middle = (low + high) / 2;
    if (schedule.units_before[middle + 1] * schedule.pairs > unit) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  const auto rest = static_cast<unsigned>(unit - schedule.units_before[low] * schedule.pairs);
  const auto units = static_cast<unsigned>(schedule.units_of(low));
  return {low, static_cast<int>(rest / units), static_cast<int>(rest % units)};
}

template <int kUnit>
__device__ UnitPlace place_of(const KeySchedule<kUnit>& schedule, int unit) {
  return place_of(schedule, unit, 0, schedule.sequences - 1);
}

/// Nobody is told of anything.
struct TellNobody {
  template <typename... What>
  __device__ void operator()(What...) const {}
};

/// By all threads of a block. Returns whether some sequence has more than `few` units. `tell(s, begin, end, all)`: told
/// of each sequence by one of them: its units are those from `begin` to `end` of `all`, counted for one pair.
template <int kUnit, typename Tell = TellNobody>
__device__ bool make_schedule(const KeySchedule<kUnit>& schedule, const AttentionProblem& problem, int few,
                              const Tell& tell = {}) {
  __shared__ int totals[32];
  bool many = false;
  const int threads = static_cast<int>(blockDim.x);
  const int each = (schedule.sequences + threads - 1) / threads;
  const int begin = min(static_cast<int>(threadIdx.x) * each, schedule.sequences);
  const int end = min(begin + each, schedule.sequences);
  int sum = 0;
  for (int s = begin; s < end; ++s) {
    // All are on their way before the first is stored, behind which the compiler would not dare to load.
    const int token = problem.query_start[s], next_token = problem.query_start[s + 1];
    const int context = problem.context_lens[s], table = problem.block_starts[s];
    schedule.contexts[s] = context;
    schedule.tables[s] = table;
    schedule.tokens[s] = token;
    if (context > 0 && next_token - token == 1) {
      const int units = (context + kUnit - 1) / kUnit - schedule.first_key(s) / kUnit;
      many |= units > few;
      sum += units;
    }
    schedule.units_before[s + 1] = sum;
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int before = sum;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) totals[warp] = before;
  __syncthreads();
  before -= sum;
  int all = 0;
#pragma unroll 8
  for (int w = 0; w < threads / 32; ++w) {
    const int total = totals[w];
    all += total;
    if (w < warp) before += total;
  }
  int from = before;
#pragma unroll 1
  for (int s = begin; s < end; ++s) {
    const int to = schedule.units_before[s + 1] + before;
    schedule.units_before[s + 1] = to;
    tell(s, from, to, all);
    from = to;
  }
  if (threadIdx.x == 0) schedule.units_before[0] = 0;
  return __syncthreads_or(many);
}

/// The pair that a part belongs to.
struct PartOwner {
  int pair;        ///< of all; -1: there is no part
  int begin, end;  ///< its units
  int token;
  int first_head;
  int rows;
};

/// The threads that join the parts of one pair.
struct Team {
  int rank;
  int size;
};

/// Join `count` parts of a pair, in order: into another part, or into the result if `to` is null. part_at(i): where
/// part i is. kFar: other blocks have written them. `tell(head, component, four)`: told of every four numbers of the
/// result.
template <typename T, int kDim, bool kFar, typename PartAt, typename Tell = TellNobody>
__device__ void join(Team team, const PartOwner& owner, int count, PartAt part_at, float* to,
                     const AttentionProblem& problem, Tell&& tell = {}) {
  constexpr int kQuads = kDim / 4;
  constexpr int kBatch = kFar ? 8 : 4;  // parts whose loads are under way at once
  const auto load = [](const float* from) { return kFar ? __ldcg(from) : *from; };
  const auto load_quad = [](const float* from) {
    return kFar ? __ldcg(reinterpret_cast<const float4*>(from)) : *reinterpret_cast<const float4*>(from);
  };
  for (int i = team.rank; i < owner.rows * kQuads; i += team.size) {
    const int row = i / kQuads, column = i % kQuads * 4;
    float best = -INFINITY, total = 0.0f;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int first = 0; first < count; first += kBatch) {
      float bests[kBatch], totals[kBatch];
      float4 values[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const float* const from = part_at(min(first + j, count - 1));
        bests[j] = load(from + row);
        totals[j] = load(from + kPartRows + row);
        values[j] = load_quad(from + 2 * kPartRows + row * kDim + column);
      }
      float most = best;
#pragma unroll
      for (int j = 0; j < kBatch; ++j) most = fmaxf(most, bests[j]);
      const float base = most == -INFINITY ? 0.0f : most;
      const float shrink = power_of_two(best - base);
      total *= shrink;
      sum = make_float4(sum.x * shrink, sum.y * shrink, sum.z * shrink, sum.w * shrink);
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        if (first + j >= count) break;
        const float weight = power_of_two(bests[j] - base);
        total += weight * totals[j];
        sum.x += weight * values[j].x;
        sum.y += weight * values[j].y;
        sum.z += weight * values[j].z;
        sum.w += weight * values[j].w;
      }
      best = most;
    }
    if (to != nullptr) {
      if (column == 0) {
        to[row] = best;
        to[kPartRows + row] = total;
      }
      *reinterpret_cast<float4*>(to + 2 * kPartRows + row * kDim + column) = sum;
      continue;
    }
    const int head = owner.first_head + row;
    float shrink = 1.0f;
    if (problem.sinks != nullptr) {
      const float sink = problem.sinks[head] * kLog2e;
      const float most = fmaxf(sink, best);
      shrink = power_of_two(best - most);
      total = total * shrink + power_of_two(sink - most);
    }
    const float inverse = shrink / total;
    T* const out =
        static_cast<T*>(problem.out) + owner.token * problem.out_token_stride + head * problem.out_head_stride + column;
    const uint2 four =
        make_uint2(pack_pair<T>(sum.x * inverse, sum.y * inverse), pack_pair<T>(sum.z * inverse, sum.w * inverse));
    *reinterpret_cast<uint2*>(out) = four;
    tell(head, column, four);
  }
}

}  // namespace quire::gpu
