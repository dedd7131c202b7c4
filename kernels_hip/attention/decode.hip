// Attention of sequences with one query: out = softmax(q . K^T) V over the pages of each.
//
// The keys are read once, so this is limited by memory. The query heads of a kv head are the 16 columns of a product
// on the matrix cores: most of it is wasted, and it does not matter. A block has a pair of a sequence and 16 heads of a
// kv head, or a part of its keys; its four waves take cells of 16 keys in turn, keys straight to registers as they lie
// in pages, values by way of shared memory, which turns them (query_rows.h), with the next cell under way meanwhile.
// The grid has more parts than blocks fit the device, so that long contexts are shared out; of a short one only the
// first parts have keys. How many, each block works out from the context length, in device memory: a recorded launch
// serves every step. The block that comes last joins the parts, in order.
#include <algorithm>

#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_hip/attention/pages.h"
#include "kernels_hip/attention/query_rows.h"
#include "kernels_hip/common/matrix_lanes.h"

namespace quire::gpu {
namespace {

constexpr int kWaves = 4;
constexpr int kRows = 16;
/// Cells that are worth a part of their own.
constexpr int kLeastCells = 16;
constexpr int kMostParts = 64;
/// Blocks that fit a compute unit.
constexpr int kBlocksPerMultiprocessor = 3;
constexpr int kMostPairs = 8192;

/// Of a part in scratch memory, by row: the largest score times log2 e, the sum of weights, the weighted values.
template <int kDim>
constexpr int kPartStride = kDim + 2;

/// What a block computes.
struct Work {
  int pair;
  int sequence, kv_head, first_head, rows;  ///< rows: heads
  int token, context, first_key, table;
  int first_cell, cells;  ///< of the part, from the first cell that the query sees
  int part, parts;

  /// rows is 0 if there is nothing to do.
  static __device__ Work of(const AttentionProblem& problem, int most_parts) {
    Work work{};
    const int tiles = (problem.group + kRows - 1) / kRows;
    work.pair = static_cast<int>(blockIdx.x);
    work.sequence = work.pair / (tiles * problem.num_kv_heads);
    work.kv_head = work.pair / tiles % problem.num_kv_heads;
    const int first = work.pair % tiles * kRows;
    work.first_head = work.kv_head * problem.group + first;
    work.token = problem.query_start[work.sequence];
    work.context = problem.context_lens[work.sequence];
    work.table = problem.block_starts[work.sequence];
    work.part = static_cast<int>(blockIdx.y);
    if (work.context <= 0 || problem.query_start[work.sequence + 1] - work.token != 1) return work;
    work.first_key = problem.window > 0 ? max(0, work.context - problem.window) : 0;
    const int all = (work.context + kCellKeys - 1) / kCellKeys - work.first_key / kCellKeys;
    const int each = max((all + most_parts - 1) / most_parts, min(all, kLeastCells));
    work.parts = (all + each - 1) / each;
    work.first_cell = work.first_key / kCellKeys + work.part * each;
    work.cells = min(each, all - work.part * each);
    if (work.part < work.parts) work.rows = min(problem.group - first, kRows);
    return work;
  }
};

/// One cell's keys and values, in registers or under way to them.
template <int kDim, int kLanes>
struct CellLoads {
  using Core = MatrixCore<kLanes>;
  static constexpr int kChunks = kDim / 8;
  static constexpr int kSteps = (kDim + Core::kStep - 1) / Core::kStep;
  static constexpr int kUnits = kCellKeys / kQuadKeys * kChunks;
  static constexpr int kOwn = (kUnits + kLanes - 1) / kLanes;

  Operand<kLanes> keys[kSteps];
  Chunk values[kOwn][kQuadKeys];

  __device__ void load(const AttentionProblem& problem, const Work& work, int key, int lane) {
    const int32_t* const table = problem.block_tables + work.table;
    const int block_size = problem.layout.block_size;
    const std::byte* const heads = problem.pages + work.kv_head * problem.head_bytes;
    const auto seen = [&](int at) { return at >= work.first_key && at < work.context; };
    const int own_key = key + Core::left_row(lane);
    const int block = own_key / block_size, row = own_key - block * block_size;
    const std::byte* const head = heads + (seen(own_key) ? table[block] : 0) * problem.block_bytes;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int i = 0; i < Core::kLaneChunks; ++i) {
        const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
        const int place = kv_chunk_place(chunk, row, kChunks, block_size);
        keys[step].set(i, load_chunk(head + place * kChunkBytes, chunk < kChunks && seen(own_key)));
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int unit = i * kLanes + lane;
      load_values<kDim>(problem, heads, table, key + unit / kChunks * kQuadKeys, work.first_key,
                        unit < kUnits ? work.context : 0, unit % kChunks, values[i]);
    }
  }

  __device__ void store_values(HalfChunk* tile, int lane) const {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int unit = i * kLanes + lane;
      if (unit < kUnits) store_quad<kDim>(tile, values[i], unit / kChunks, unit % kChunks);
    }
  }
};

/// A wave's share of a part: every kWaves-th cell.
template <typename T, int kDim, int kLanes>
__device__ void attend_cells(const AttentionProblem& problem, const Work& work, HalfChunk* tile, int wave, int lane,
                             RowSums<kDim, kLanes>& sums) {
  using Core = MatrixCore<kLanes>;
  using Loads = CellLoads<kDim, kLanes>;
  const int head = work.first_head + min(Core::right_row(lane), work.rows - 1);
  Operand<kLanes> q[Loads::kSteps];
  const T* const from =
      static_cast<const T*>(problem.q) + work.token * problem.q_token_stride + head * problem.q_head_stride;
#pragma unroll
  for (int step = 0; step < Loads::kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < Core::kLaneChunks; ++i) {
      const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
      q[step].set(i, load_chunk(from + chunk * 8, chunk < Loads::kChunks));
    }
  }
  const RowView view{work.first_key, work.context, problem.alibi_slopes != nullptr ? problem.alibi_slopes[head] : 0.0f};
  const ScoreRules rules(problem.scale, problem.softcap, problem.alibi_slopes != nullptr);
  sums.clear();
  Loads loads;
  if (wave < work.cells) loads.load(problem, work, (work.first_cell + wave) * kCellKeys, lane);
  for (int cell = wave; cell < work.cells; cell += kWaves) {
    const int key = (work.first_cell + cell) * kCellKeys;
    sync_wave<kLanes>();  // all lanes are done with the values before
    loads.store_values(tile, lane);
    Result<kLanes> scores[1] = {};
#pragma unroll
    for (int step = 0; step < Loads::kSteps; ++step) multiply_step<T, kLanes>(scores[0], loads.keys[step], q[step]);
    if (cell + kWaves < work.cells) loads.load(problem, work, key + kWaves * kCellKeys, lane);
    sync_wave<kLanes>();
    Weights<kLanes> weights[1];
    const bool masked = key < view.first || key + kCellKeys > view.end;
    sums.template add_scores<T, 1>(scores, key, view, masked, rules, lane, weights);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      const auto operand = value_operand<kDim, kLanes>(tile, 0, n * 16, lane);
      multiply_add<T, kLanes>(sums.out[n].values, operand.words, weights[0].words);
    }
  }
}

/// A part as its block has it in shared memory: what the waves have, added up.
template <int kDim>
struct PartSums {
  float values[kRows][kDim + 4];  ///< rows apart enough to lie in different banks
  float bests[kWaves][kRows];
  float totals[kWaves][kRows];
};

template <int kDim, int kLanes>
__device__ void add_waves(PartSums<kDim>& part, const RowSums<kDim, kLanes>& sums, int wave, int lane) {
  using Core = MatrixCore<kLanes>;
  const int row = Core::right_row(lane);
  const float total = column_sum<kLanes>(sums.sum);
  __syncthreads();  // the waves' values lie where the part will
  if (lane < kRows) {
    part.bests[wave][row] = sums.best;
    part.totals[wave][row] = total;
  }
  __syncthreads();
  float most = part.bests[0][row];
#pragma unroll
  for (int w = 1; w < kWaves; ++w) most = fmaxf(most, part.bests[w][row]);
  const float weight = sums.best == -INFINITY ? 0.0f : power_of_two(sums.best - most);
  for (int w = 0; w < kWaves; ++w) {
    if (w == wave) {
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
#pragma unroll
        for (int i = 0; i < Core::kValues; ++i) {
          float& to = part.values[row][n * 16 + Core::first_row(lane) + i];
          to = (w == 0 ? 0.0f : to) + sums.out[n].values[i] * weight;
        }
      }
    }
    __syncthreads();
  }
}

/// Several parts of a softmax, one after the other.
struct Joined {
  float best = -INFINITY;
  float total = 0.0f;
  float value = 0.0f;

  __device__ void add(float other_best, float other_total, float other_value) {
    const float most = fmaxf(best, other_best);
    const float base = most == -INFINITY ? 0.0f : most;
    const float own = power_of_two(best - base), others = power_of_two(other_best - base);
    total = total * own + other_total * others;
    value = value * own + other_value * others;
    best = most;
  }

  template <typename T>
  __device__ void write(const AttentionProblem& problem, int token, int head, int component) const {
    float shrink = 1.0f, all = total;
    if (problem.sinks != nullptr) {
      const float score = problem.sinks[head] * kLog2e;
      const float most = fmaxf(score, best);
      shrink = power_of_two(best - most);
      all = total * shrink + power_of_two(score - most);
    }
    static_cast<T*>(problem.out)[token * problem.out_token_stride + head * problem.out_head_stride + component] =
        from_float<T>(value * shrink / all);
  }
};

/// The block's part goes out, or to scratch memory; the block that comes last joins what is there.
template <typename T, int kDim, int kThreads>
__device__ void finish(const AttentionProblem& problem, const Work& work, const PartSums<kDim>& part, int most_parts) {
  __shared__ bool is_last;
  const int elements = work.rows * kDim;
  const auto part_row = [&](int p, int row) {
    const int64_t rows = min(problem.group, kRows);
    return problem.scratch + ((int64_t{work.pair} * most_parts + p) * rows + row) * kPartStride<kDim>;
  };
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
    const int row = i / kDim, component = i % kDim;
    float best = part.bests[0][row];
    for (int w = 1; w < kWaves; ++w) best = fmaxf(best, part.bests[w][row]);
    float total = 0.0f;
    for (int w = 0; w < kWaves; ++w) {
      if (part.bests[w][row] != -INFINITY) total += part.totals[w][row] * power_of_two(part.bests[w][row] - best);
    }
    if (work.parts == 1) {
      Joined{best, total, part.values[row][component]}.template write<T>(problem, work.token, work.first_head + row,
                                                                         component);
      continue;
    }
    float* const to = part_row(work.part, row);
    if (component == 0) {
      to[0] = best;
      to[1] = total;
    }
    to[2 + component] = part.values[row][component];
  }
  if (work.parts == 1) return;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* const counter = &problem.counters[work.pair];
    is_last = atomicAdd(counter, 1u) == static_cast<unsigned>(work.parts - 1);
    if (is_last) *counter = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) {
    const int row = i / kDim, component = i % kDim;
    Joined joined;
    for (int p = 0; p < work.parts; ++p) {
      const float* const other = part_row(p, row);
      joined.add(load_past_l1(other), load_past_l1(other + 1), load_past_l1(other + 2 + component));
    }
    joined.write<T>(problem, work.token, work.first_head + row, component);
  }
}

template <int kDim>
union Shared {
  HalfChunk tiles[kWaves][kCellKeys / kQuadKeys * kDim];
  PartSums<kDim> part;
};

template <typename T, int kDim, int kLanes>
__device__ void decode(const AttentionProblem& problem, int most_parts, Shared<kDim>& shared) {
  const Work work = Work::of(problem, most_parts);
  if (work.rows == 0) return;
  const int wave = wave_of_block<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  RowSums<kDim, kLanes> sums;
  attend_cells<T, kDim, kLanes>(problem, work, shared.tiles[wave], wave, lane, sums);
  add_waves<kDim, kLanes>(shared.part, sums, wave, lane);
  finish<T, kDim, kWaves * kLanes>(problem, work, shared.part, most_parts);
}

template <typename T, int kDim>
__global__ void __launch_bounds__(kWaves * 64, kDim > 128 ? 1 : kBlocksPerMultiprocessor)
    decode_kernel(const AttentionProblem problem, const int most_parts) {
  if constexpr (kMatrixLanes == 64 || (kMatrixLanes == 32 && kDim <= 128)) {
    __shared__ Shared<kDim> shared;
    decode<T, kDim, kMatrixLanes>(problem, most_parts, shared);
  }
}

template <typename T, int kDim>
void run(const AttentionProblem& problem, GpuStream& stream) {
  const Device& device = stream.device();
  const Resources& resources = stream.resources();
  const int64_t pairs = int64_t{problem.num_sequences} * problem.num_kv_heads * ((problem.group + kRows - 1) / kRows);
  // Twice as many parts as there is room for blocks if all contexts are long, and some for a long one among short ones.
  const int64_t room = int64_t{kBlocksPerMultiprocessor} * device.num_multiprocessors;
  int64_t parts = std::clamp<int64_t>(2 * room / pairs, 8, kMostParts);
  const int64_t part_bytes = pairs * std::min(problem.group, kRows) * kPartStride<kDim> * int64_t{sizeof(float)};
  parts = std::min(parts, static_cast<int64_t>(resources.scratch_bytes) / part_bytes);
  if (parts < 1 || pairs > static_cast<int64_t>(resources.num_counters)) parts = 1;
  const int threads = kWaves * matrix_lanes(device);
  launch("attention", decode_kernel<T, kDim>, dim3(static_cast<unsigned>(pairs), static_cast<unsigned>(parts)),
         dim3(static_cast<unsigned>(threads)), 0, stream, problem, static_cast<int>(parts));
}

template <typename T>
void run_any(const AttentionProblem& problem, GpuStream& stream) {
  switch (problem.head_dim) {
    case 64: return run<T, 64>(problem, stream);
    case 80: return run<T, 80>(problem, stream);
    case 96: return run<T, 96>(problem, stream);
    case 112: return run<T, 112>(problem, stream);
    case 128: return run<T, 128>(problem, stream);
    case 160: return run<T, 160>(problem, stream);
    case 192: return run<T, 192>(problem, stream);
    case 256: return run<T, 256>(problem, stream);
    default: QUIRE_CHECK(false, "head_dim=", problem.head_dim);
  }
}

}  // namespace

size_t decode_scratch_bytes(const Device& device) {
  // For as many parts as run() makes where pairs leave room; where there are more pairs, for fewer.
  const size_t parts =
      4 * static_cast<size_t>(kBlocksPerMultiprocessor) * static_cast<size_t>(device.num_multiprocessors);
  return parts * kRows * kPartStride<256> * sizeof(float);
}

size_t decode_counters(const Device&) {
  return kMostPairs;
}

void attend_decode(const AttentionProblem& problem, DType dtype, GpuStream& stream) {
  dtype == DType::kBFloat16 ? run_any<BFloat>(problem, stream) : run_any<Half>(problem, stream);
}

}  // namespace quire::gpu
