// Latent attention (values are the first 512 components of keys of 576, one kv head, many query heads), on tensor
// cores.
//
// A block has one token, 16 of its query heads, and keys in tiles of 64 that stay in shared memory for both products:
// each of four warps makes the scores of 16 keys, then, once all scores are there, sums 128 components of the values of
// all 64. The next tile is copied meanwhile. Sequences with one query are shared out evenly over the blocks
// (split.cuh); tokens of longer chunks, and all where a row's result must depend on the row alone, have a block for 16
// heads each. Decode is limited by memory.
#include <cmath>

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/common/launch.cuh"

namespace quire::gpu {
namespace {

constexpr int kKeyDim = 576;
constexpr int kValueDim = 512;
constexpr int kChunks = kKeyDim / 8;
constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTile = kWarps * kCellKeys;  // keys
constexpr int kStages = 2;
constexpr int kCellBytes = kCellKeys * kKeyDim * 2;
constexpr int kStageBytes = kWarps * kCellBytes;
constexpr int kPartFloats = kPartRows * (kValueDim + 2);
constexpr int kScoreStride = kTile + 4;  // floats: rows begin in different banks
constexpr int kScoreBytes = kPartRows * kScoreStride * 4;
constexpr int kFixedBytes = kCellBytes + kStages * kStageBytes + kScoreBytes;  // q, keys, scores
// Parts of a pair are joined by one block, which takes its time: a block has no less than this, and a pair of common
// length no more parts than that.
constexpr int kMinBlockUnits = 4;
constexpr int kMaxCommonParts = 16;

using LatentSchedule = KeySchedule<kTile>;

enum class Mode { kSplitSingle, kTokensOfMany, kAllTokens };

/// A row's keys.
struct Keys {
  int token;
  int table;    ///< where the sequence's blocks begin
  int first;    ///< the first that the query sees
  int context;  ///< behind the last
};

/// By all threads: the token's, or context 0 if there is nothing to do.
__device__ Keys keys_of_token(const AttentionProblem& problem, int token, bool single_queries_too) {
  __shared__ Keys found;
  if (threadIdx.x == 0) found.context = 0;
  __syncthreads();
  for (int s = static_cast<int>(threadIdx.x); s < problem.num_sequences; s += kThreads) {
    const int begin = problem.query_start[s], end = problem.query_start[s + 1], context = problem.context_lens[s];
    if (token < begin || token >= end || context <= 0 || (end - begin == 1 && !single_queries_too)) continue;
    const int own_context = context - (end - 1 - token);
    const int first = problem.window > 0 ? max(0, own_context - problem.window) : 0;
    found = {token, problem.block_starts[s], first, own_context};
  }
  __syncthreads();
  return found;
}

/// The warp's 16 keys of a tile, from pages to a cell.
__device__ void copy_keys(std::byte* cell, const AttentionProblem& problem, const int32_t (&blocks)[2], int key,
                          uint32_t barrier) {
  const int lane = threadIdx.x % 32;
  const int block_size = problem.layout.block_size, unit = min(block_size, kCellKeys);
  const int count = (blocks[0] >= 0) + (blocks[1] >= 0);
  if (lane == 0) barrier_expect(barrier, static_cast<unsigned>(count * unit * kKeyDim * 2));
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (blocks[i] < 0) continue;
    const std::byte* const page = problem.pages + blocks[i] * problem.block_bytes;
    const int first = block_size < kCellKeys ? 0 : key % block_size;
    if (block_size == kCellKeys) {
      if (lane == 0) bulk_copy(shared_address(cell), page, kCellBytes, barrier);
    } else if (lane < kKeyDim / 64) {
      bulk_copy(shared_address(cell + (lane * kCellKeys + i * unit) * 128), page + (lane * block_size + first) * 128,
                static_cast<unsigned>(unit * 128), barrier);
    }
  }
}

/// Softmax sums of 16 rows; the values' components [128 * warp, 128 * warp + 128) of a warp.
struct Sums {
  float out[16][4];
  float best[2];
  float total[2];  ///< of this lane's columns

  __device__ void clear() {
#pragma unroll
    for (int n = 0; n < 16; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
    best[0] = best[1] = -INFINITY;
    total[0] = total[1] = 0.0f;
  }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) latent_kernel(const AttentionProblem problem, const Mode mode) {
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  std::byte* const stages = shared + kCellBytes;
  float* const scores = reinterpret_cast<float*>(stages + kStages * kStageBytes);
  int* const lists = reinterpret_cast<int*>(shared + kFixedBytes);
  __shared__ __align__(8) uint64_t barriers[kStages];
  __shared__ bool comes_last[2];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x < kStages) barrier_init(shared_address(&barriers[threadIdx.x]), kWarps);
  fence_for_copies();

  wait_for_previous();
  let_next_start();
  const int tiles = (problem.group + kPartRows - 1) / kPartRows;
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const bool split = mode == Mode::kSplitSingle;
  const LatentSchedule schedule(lists, problem, tiles);
  int block_units = 0, block_begin = 0, block_end = 0;
  Keys own{};
  if (split) {
    make_schedule(schedule, problem, 0);
    const int common = schedule.units() / (schedule.pairs * schedule.sequences);
    block_units = max((schedule.units() + blocks - 1) / blocks, max(common / kMaxCommonParts, kMinBlockUnits));
    block_begin = block * block_units;
    block_end = min(block_begin + block_units, schedule.units());
  } else {
    own = keys_of_token(problem, block / tiles, mode == Mode::kAllTokens);
    block_end = own.context == 0 ? 0 : (own.context - 1) / kTile - own.first / kTile + 1;
  }
  if (block_begin >= block_end) return;

  // The row's keys, and the first of the unit's.
  const auto keys_of = [&](const UnitPlace& place) -> Keys {
    if (!split) return own;
    const int s = place.sequence;
    return {schedule.tokens[s], schedule.tables[s], schedule.first_key(s), schedule.contexts[s]};
  };
  const auto place_at = [&](int unit) { return split ? place_of(schedule, unit) : UnitPlace{0, block % tiles, unit}; };
  const auto first_of = [&](const UnitPlace& place, const Keys& keys) {
    return (keys.first / kTile + place.unit) * kTile;
  };

  // Pages of the warp's keys are looked up a unit ahead: lane i has the i-th of them.
  int32_t next_block = -1;
  int next_key = 0;
  const auto look_up = [&](int unit) {
    next_block = -1;
    if (unit >= block_end) return;
    const UnitPlace place = place_at(unit);
    const Keys keys = keys_of(place);
    const int block_size = problem.layout.block_size, step = min(block_size, kCellKeys);
    next_key = first_of(place, keys) + warp * kCellKeys;
    const int key = next_key + lane * step;
    if (lane < kCellKeys / step && key < keys.context && key + step > keys.first) {
      next_block = problem.block_tables[keys.table + key / block_size];
    }
  };
  const auto copy_unit = [&](int unit) {
    if (unit >= block_end) return;
    const int stage = (unit - block_begin) % kStages;
    const int32_t pages[2] = {__shfl_sync(0xffffffffu, next_block, 0), __shfl_sync(0xffffffffu, next_block, 1)};
    copy_keys(stages + stage * kStageBytes + warp * kCellBytes, problem, pages, next_key,
              shared_address(&barriers[stage]));
    look_up(unit + 1);
  };
  look_up(block_begin);
  // Barriers in the search for work have made those of the stages known.
  copy_unit(block_begin);

  const LaneRows rows;
  const int column = lane % 4 * 2;
  const uint32_t q = shared_address(shared);
  const bool rules = problem.softcap > 0.0f || problem.alibi_slopes != nullptr;
  const float factor = rules ? kLog2e : problem.scale * kLog2e;
  const float inverse = problem.softcap > 0.0f ? 1.0f / problem.softcap : 0.0f;
  float* const block_parts = problem.scratch + block * 2 * kPartFloats;
  PartOwner shared_pair[2];  // with blocks before, with blocks behind only
  shared_pair[0].pair = shared_pair[1].pair = -1;

  Sums sums;
  UnitPlace place = place_at(block_begin);
  for (int unit = block_begin; unit < block_end;) {
    const Keys keys = keys_of(place);
    const int units = split ? schedule.units_of(place.sequence) : block_end;
    const int tile = place.pair % tiles, first_head = place.pair / tiles * problem.group + tile * kPartRows;
    const int real_rows = min(problem.group - tile * kPartRows, kPartRows);
    const int pair_begin = unit - place.unit, pair_end = pair_begin + units;
    const int stop = min(block_end, pair_end);
    // The last readers of q have passed a barrier.
    for (int i = threadIdx.x; i < kPartRows * kChunks; i += kThreads) {
      const int row = i / kChunks, chunk = i % kChunks;
      uint4 value = make_uint4(0, 0, 0, 0);
      if (row < real_rows) {
        value = *reinterpret_cast<const uint4*>(static_cast<const T*>(problem.q) + keys.token * problem.q_token_stride +
                                                (first_head + row) * problem.q_head_stride + chunk * 8);
      }
      *reinterpret_cast<uint4*>(shared + kv_chunk_place(chunk, row, kChunks, kPartRows) * kChunkBytes) = value;
    }
    float slope[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = min(lane / 4 + half * 8, real_rows - 1);
      slope[half] = problem.alibi_slopes != nullptr ? problem.alibi_slopes[first_head + row] : 0.0f;
    }
    sums.clear();
    __syncthreads();

    for (; unit < stop; ++unit, ++place.unit) {
      const int stage = (unit - block_begin) % kStages;
      const int key = first_of(place, keys);
      copy_unit(unit + 1);
      barrier_wait(shared_address(&barriers[stage]), (unit - block_begin) / kStages & 1);
      std::byte* const cells = stages + stage * kStageBytes;
      if (key < keys.first || key + kTile > keys.context) {
        // Values that the query does not see may be anything, and their weight of zero would not help.
        for (int i = threadIdx.x; i < kTile * kChunks; i += kThreads) {
          const int row = i / kChunks;
          if (key + row >= keys.first && key + row < keys.context) continue;
          const int at = kv_chunk_place(i % kChunks, row % kCellKeys, kChunks, kCellKeys);
          *reinterpret_cast<uint4*>(cells + row / kCellKeys * kCellBytes + at * kChunkBytes) = make_uint4(0, 0, 0, 0);
        }
        fence_for_copies();
        __syncthreads();
      }

      // Scores of the warp's 16 keys; two chains of sums each, as one would wait for itself.
      const uint32_t own_cell = shared_address(cells + warp * kCellBytes);
      float score[2][2][4] = {};
#pragma unroll 6
      for (int k = 0; k < kKeyDim / 16; ++k) {
        uint32_t a[4], b[4];
        load_matrices(a, cell_address<kChunks>(q, k, rows.a_row, rows.a_odd));
        load_matrices(b, cell_address<kChunks>(own_cell, k, rows.b_row, rows.b_odd));
        multiply_add<T>(score[k % 2][0], a, b[0], b[1]);
        multiply_add<T>(score[k % 2][1], a, b[2], b[3]);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float s[2];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int at = key + warp * kCellKeys + n * 8 + column + i;
            s[i] = score[0][n][2 * half + i] + score[1][n][2 * half + i];
            if (rules) {
              s[i] *= problem.scale;
              if (problem.softcap > 0.0f) s[i] = soft_limit(s[i], problem.softcap, inverse);
              s[i] += slope[half] * static_cast<float>(at - (keys.context - 1));
            }
            if (at < keys.first || at >= keys.context) s[i] = -INFINITY;
          }
          *reinterpret_cast<float2*>(scores + (lane / 4 + half * 8) * kScoreStride + warp * kCellKeys + n * 8 +
                                     column) = make_float2(s[0], s[1]);
        }
      }
      __syncthreads();

      uint32_t weights[kWarps][4];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float s[2 * kWarps][2];
        float most = sums.best[half];
#pragma unroll
        for (int n = 0; n < 2 * kWarps; ++n) {
          const float2 pair =
              *reinterpret_cast<const float2*>(scores + (lane / 4 + half * 8) * kScoreStride + n * 8 + column);
          s[n][0] = pair.x;
          s[n][1] = pair.y;
          most = fmaxf(most, fmaxf(pair.x, pair.y));
        }
        most = quad_max(most);
        // A product of its own in both places: a row whose best score stays must shrink by exactly 1.
        const float base = most == -INFINITY ? 0.0f : __fmul_rn(most, factor);
        const float shrink = power_of_two(__fmul_rn(sums.best[half], factor) - base);
        sums.best[half] = most;
        float total = 0.0f;
#pragma unroll
        for (int n = 0; n < 2 * kWarps; ++n) {
          const float a = power_of_two(s[n][0] * factor - base), b = power_of_two(s[n][1] * factor - base);
          total += a + b;
          weights[n / 2][n % 2 * 2 + half] = pack_pair<T>(a, b);
        }
        sums.total[half] = fmaf(sums.total[half], shrink, total);
#pragma unroll
        for (int n = 0; n < 16; ++n) {
          sums.out[n][2 * half] *= shrink;
          sums.out[n][2 * half + 1] *= shrink;
        }
      }
#pragma unroll
      for (int c = 0; c < kWarps; ++c) {
        const uint32_t cell = shared_address(cells + c * kCellBytes);
#pragma unroll
        for (int n = 0; n < 8; ++n) {
          uint32_t values[4];
          load_matrices_transposed(values, cell_address<kChunks>(cell, warp * 8 + n, rows.a_row, rows.a_odd));
          multiply_add<T>(sums.out[2 * n], weights[c], values[0], values[1]);
          multiply_add<T>(sums.out[2 * n + 1], weights[c], values[2], values[3]);
        }
      }
      // The next but one tile goes to where this one was, and the next scores to where these were.
      __syncthreads();
    }

    const bool before = pair_begin<block_begin, behind = pair_end> block_end;
    float* const part = before || behind ? block_parts + (before ? 0 : 1) * kPartFloats : nullptr;
    if (part != nullptr) {
      shared_pair[before ? 0 : 1] = {
          place.sequence * schedule.pairs + place.pair, pair_begin, pair_end, keys.token, first_head, real_rows};
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      float total = quad_sum(sums.total[half]);
      if (row >= real_rows) continue;
      const float best = __fmul_rn(sums.best[half], factor);
      if (part != nullptr) {
        if (warp == 0 && lane % 4 == 0) {
          part[row] = best;
          part[kPartRows + row] = total;
        }
        float* const to = part + 2 * kPartRows + row * kValueDim + warp * 128 + column;
#pragma unroll
        for (int n = 0; n < 16; ++n) {
          *reinterpret_cast<float2*>(to + n * 8) = make_float2(sums.out[n][2 * half], sums.out[n][2 * half + 1]);
        }
        continue;
      }
      float shrink = 1.0f;
      if (problem.sinks != nullptr) {
        const float sink = problem.sinks[first_head + row] * kLog2e;
        const float most = fmaxf(sink, best);
        shrink = power_of_two(best - most);
        total = total * shrink + power_of_two(sink - most);
      }
      const float scale = shrink / total;
      T* const to = static_cast<T*>(problem.out) + keys.token * problem.out_token_stride +
                    (first_head + row) * problem.out_head_stride + warp * 128 + column;
#pragma unroll
      for (int n = 0; n < 16; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_pair<T>(sums.out[n][2 * half] * scale, sums.out[n][2 * half + 1] * scale);
      }
    }
    if (unit < block_end) place = place_at(unit);
  }

  if (shared_pair[0].pair < 0 && shared_pair[1].pair < 0) return;
  __syncthreads();
  const auto first_block = [&](const PartOwner& owner) { return owner.begin / block_units; };
  const auto last_block = [&](const PartOwner& owner) { return (owner.end - 1) / block_units; };
  if (threadIdx.x == 0) {
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const PartOwner& owner = shared_pair[which];
      comes_last[which] = false;
      if (owner.pair < 0) continue;
      unsigned* const counter = &problem.counters[first_block(owner)];
      comes_last[which] = count_arrival(counter) == static_cast<unsigned>(last_block(owner) - first_block(owner));
      if (comes_last[which]) *counter = 0;
    }
  }
  __syncthreads();
#pragma unroll
  for (int which = 0; which < 2; ++which) {
    if (!comes_last[which]) continue;
    const PartOwner& owner = shared_pair[which];
    const int first = first_block(owner);
    join<T, kValueDim, true>(
        Team{static_cast<int>(threadIdx.x), kThreads}, owner, last_block(owner) - first + 1,
        [&](int i) -> const float* { return problem.scratch + ((first + i) * 2 + (i == 0 ? 1 : 0)) * kPartFloats; },
        nullptr, problem);
  }
}

template <typename T>
void run(const AttentionProblem& problem, Mode mode, GpuStream& stream) {
  static OncePerDevice prepare;
  prepare([] { allow_shared_memory(latent_kernel<T>, kFixedBytes + LatentSchedule::bytes(kMaxDecodeSequences)); });
  const int tiles = (problem.group + kPartRows - 1) / kPartRows;
  const bool split = mode == Mode::kSplitSingle;
  const int blocks = split ? stream.device().num_multiprocessors : problem.num_tokens * tiles;
  launch("attention", latent_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
         kFixedBytes + (split ? LatentSchedule::bytes(problem.num_sequences) : 0), stream, problem, mode);
}

}  // namespace

size_t latent_scratch_bytes(const Device& device) {
  return static_cast<size_t>(device.num_multiprocessors) * 2 * kPartFloats * sizeof(float);
}

bool latent_fits(const AttentionProblem& problem, const Device& device) {
  return device.compute_capability >= 90 && problem.head_dim == kKeyDim && problem.value_dim == kValueDim &&
         problem.num_kv_heads == 1;
}

void attend_latent(const AttentionProblem& problem, DType dtype, bool split_single, bool others, GpuStream& stream) {
  const auto run_for = [&](auto type) {
    using T = decltype(type);
    if (split_single) run<T>(problem, Mode::kSplitSingle, stream);
    if (others) run<T>(problem, split_single ? Mode::kTokensOfMany : Mode::kAllTokens, stream);
  };
  dtype == DType::kBFloat16 ? run_for(BFloat{}) : run_for(Half{});
}

}  // namespace quire::gpu
