// Attention of many queries: out = softmax(q . K^T) V, keys in tiles of 64 (32 for wide heads), causal.
//
// A block has 4 warps and computes a tile of rows of one sequence and kv head: the rows are (token, query head of the
// kv head) pairs, token by token, so that any number of query heads shares the keys. A warp has 32 rows (16 for wide
// heads), with scores, weights and sums in registers. Keys and values of the next tile are copied while one is worked
// on. Limited by the tensor cores as mma.sync feeds them, and by the exponentials.
//
// A row's result depends on the row alone: its keys are taken in tiles at fixed positions, in order, and a key that it
// does not see adds exact zeros.
#include <cmath>

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/query_tile.cuh"
#include "kernels_cuda/common/launch.cuh"

namespace quire::gpu {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 2;

template <int kDim>
struct Shape {
  static constexpr int kTiles = kDim > 128 ? 1 : 2;  ///< of 16 rows, a warp's
  static constexpr int kRows = kWarps * kTiles * 16;
  static constexpr int kCells = kDim > 128 ? 2 : 4;  ///< of a tile of keys
  static constexpr int kKeys = kCells * kCellKeys;
  static constexpr int kQBytes = kRows * kDim * 2;
  static constexpr int kStageBytes = kCells * Cell<kDim>::kBytes;
  static constexpr int kSharedBytes = kQBytes + kStages * kStageBytes;
};

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 2)
    prefill_kernel(const AttentionProblem problem, const bool single_queries_too) {
  using S = Shape<kDim>;
  using C = Cell<kDim>;
  constexpr int kTiles = S::kTiles;
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  std::byte* const stages = shared + S::kQBytes;
  __shared__ __align__(8) uint64_t barriers[kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x < kStages) barrier_init(shared_address(&barriers[threadIdx.x]), S::kCells);
  fence_for_copies();

  wait_for_previous();
  let_next_start();
  const int kv_head = static_cast<int>(blockIdx.x) % problem.num_kv_heads;
  const QueryTile tile =
      find_tile<kThreads>(problem, S::kRows, single_queries_too, static_cast<int>(blockIdx.x) / problem.num_kv_heads);
  if (tile.row < 0) return;

  const int group = problem.group;
  const int first_token = tile.token, queries = tile.queries, context = tile.context;
  const int first_position = context - queries;
  const int32_t* const table = problem.block_tables + tile.table;
  const std::byte* const heads = problem.pages + kv_head * problem.head_bytes;
  const int block_size = problem.layout.block_size;

  // Positions of the block's first and last row, and the keys that any of them sees.
  const int low = first_position + tile.row / group;
  const int high = first_position + min((tile.row + S::kRows - 1) / group, queries - 1);
  const int first_key = problem.window > 0 ? max(0, low - problem.window + 1) : 0;
  const int begin = first_key / S::kKeys, end = high / S::kKeys + 1;

  // A warp copies one cell of each tile. Its pages are looked up a tile ahead.
  const int unit = min(block_size, kCellKeys);  // keys of a page that go to a cell
  const int units = kCellKeys / unit;
  const auto look_up = [&](int key_tile) {
    const int key = key_tile * S::kKeys + warp * kCellKeys + lane * unit;
    const bool wanted = warp < S::kCells && lane < units && key_tile < end && key < context && key + unit > first_key;
    return wanted ? table[key / block_size] : -1;
  };
  int32_t block = look_up(begin);
  const auto copy_tile = [&](int key_tile) {
    if (warp < S::kCells && key_tile < end) {
      const int stage = (key_tile - begin) % kStages;
      std::byte* const cell = stages + stage * S::kStageBytes + warp * C::kBytes;
      const uint32_t barrier = shared_address(&barriers[stage]);
      const int32_t blocks[2] = {__shfl_sync(0xffffffffu, block, 0), __shfl_sync(0xffffffffu, block, 1)};
      if constexpr (kBulkCopies) {
        const int count = (blocks[0] >= 0) + (blocks[1] >= 0);
        if (lane == 0) barrier_expect(barrier, static_cast<unsigned>(count * unit * kDim * 4));
        __syncwarp();
      }
      const int first = (key_tile * S::kKeys + warp * kCellKeys) % block_size;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (blocks[i] < 0) continue;
        copy_to_cell<kDim>(cell, i * unit, heads + blocks[i] * problem.block_bytes, block_size,
                           block_size < kCellKeys ? 0 : first, unit, barrier);
      }
      block = look_up(key_tile + 1);
    }
    if constexpr (!kBulkCopies) async_copy_commit();
  };

  // Rows of q, laid out as keys of cells; they come before the first tile of keys, or with it.
  for (int i = threadIdx.x; i < S::kRows * C::kChunks; i += kThreads) {
    const int row = i / C::kChunks, chunk = i % C::kChunks;
    const int token = (tile.row + row) / group;
    const bool real = token < queries;
    const int head = kv_head * group + (tile.row + row) % group;
    const T* const from = static_cast<const T*>(problem.q) +
                          (first_token + (real ? token : 0)) * problem.q_token_stride + head * problem.q_head_stride +
                          chunk * 8;
    const int place = row / 16 * 16 * C::kChunks + kv_chunk_place(chunk, row % 16, C::kChunks, 16);
    async_copy_16(shared + place * kChunkBytes, from, real);
  }
  if constexpr (kBulkCopies) async_copy_commit();
  // The search for the tile had barriers behind which those of the stages are ready.
  copy_tile(begin);
  if constexpr (kBulkCopies) async_copy_wait<0>();
  if constexpr (kBulkCopies) __syncthreads();

  const LaneRows rows;
  const int column = lane % 4 * 2;
  float out[kTiles][kDim / 8][4] = {};
  float best[kTiles][2], sum[kTiles][2], slope[kTiles][2];
  int position[kTiles][2];
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row + (warp * kTiles + t) * 16 + lane / 4 + half * 8;
      best[t][half] = -INFINITY;
      sum[t][half] = 0.0f;
      position[t][half] = first_position + min(row / group, queries - 1);
      slope[t][half] = problem.alibi_slopes != nullptr ? problem.alibi_slopes[kv_head * group + row % group] : 0.0f;
    }
  }
  const uint32_t own_q = shared_address(shared) + warp * kTiles * C::kHalfBytes;
  const bool rules = problem.softcap > 0.0f || problem.alibi_slopes != nullptr;
  const float factor = rules ? kLog2e : problem.scale * kLog2e;
  const float inverse = problem.softcap > 0.0f ? 1.0f / problem.softcap : 0.0f;
  const int warp_high =
      first_position + min((tile.row + (warp + 1) * kTiles * 16 - 1) / group, queries - 1);  // its last row's position

  for (int key_tile = begin; key_tile < end; ++key_tile) {
    const int stage = (key_tile - begin) % kStages;
    const int key = key_tile * S::kKeys;
    copy_tile(key_tile + 1);
    if constexpr (kBulkCopies) {
      barrier_wait(shared_address(&barriers[stage]), (key_tile - begin) / kStages & 1);
    } else {
      async_copy_wait<1>();
      __syncthreads();
    }
    std::byte* const cells = stages + stage * S::kStageBytes;
    if (key < first_key || key + S::kKeys > context) {
      // Values that nobody sees may be anything, and their weight of zero would not help.
      for (int i = threadIdx.x; i < S::kKeys * C::kChunks; i += kThreads) {
        const int row = i / C::kChunks;
        if (key + row >= first_key && key + row < context) continue;
        const int place = kv_chunk_place(i % C::kChunks, row % kCellKeys, C::kChunks, kCellKeys);
        *reinterpret_cast<uint4*>(cells + row / kCellKeys * C::kBytes + C::kHalfBytes + place * kChunkBytes) =
            make_uint4(0, 0, 0, 0);
      }
      fence_for_copies();
      __syncthreads();
    }
    if (key > warp_high) {
      __syncthreads();
      continue;
    }
    const uint32_t tile_address = shared_address(cells);

    float score[kTiles][S::kCells * 2][4] = {};
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t q[kTiles][4];
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        load_matrices(q[t], cell_address<C::kChunks>(own_q + t * C::kHalfBytes, k, rows.a_row, rows.a_odd));
      }
#pragma unroll
      for (int c = 0; c < S::kCells; ++c) {
        uint32_t keys[4];
        load_matrices(keys, cell_address<C::kChunks>(tile_address + c * C::kBytes, k, rows.b_row, rows.b_odd));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply_add<T>(score[t][2 * c], q[t], keys[0], keys[1]);
          multiply_add<T>(score[t][2 * c + 1], q[t], keys[2], keys[3]);
        }
      }
    }

    const bool masked = key + S::kKeys - 1 > low || (problem.window > 0 && key <= high - problem.window);
    uint32_t weights[kTiles][S::kCells][4];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (rules) {
#pragma unroll
          for (int n = 0; n < S::kCells * 2; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              float& s = score[t][n][2 * half + i];
              s *= problem.scale;
              if (problem.softcap > 0.0f) s = soft_limit(s, problem.softcap, inverse);
              s += slope[t][half] * static_cast<float>(key + n * 8 + column + i - position[t][half]);
            }
          }
        }
        if (masked) {
          const int last = position[t][half] - key - column;
          const int first = problem.window > 0 ? last - problem.window + 1 : -S::kKeys;
#pragma unroll
          for (int n = 0; n < S::kCells * 2; ++n) {
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              if (n * 8 + i > last || n * 8 + i < first) score[t][n][2 * half + i] = -INFINITY;
            }
          }
        }
        float most = best[t][half];
#pragma unroll
        for (int n = 0; n < S::kCells * 2; ++n) {
          most = fmaxf(most, fmaxf(score[t][n][2 * half], score[t][n][2 * half + 1]));
        }
        most = quad_max(most);
        // A product of its own in both places: a row whose best score stays must shrink by exactly 1.
        const float base = most == -INFINITY ? 0.0f : __fmul_rn(most, factor);
        if (__any_sync(0xffffffffu, most > best[t][half])) {
          const float shrink = power_of_two(__fmul_rn(best[t][half], factor) - base);
          sum[t][half] *= shrink;
#pragma unroll
          for (int n = 0; n < kDim / 8; ++n) {
            out[t][n][2 * half] *= shrink;
            out[t][n][2 * half + 1] *= shrink;
          }
          best[t][half] = most;
        }
#pragma unroll
        for (int n = 0; n < S::kCells * 2; ++n) {
          const float a = power_of_two(score[t][n][2 * half] * factor - base);
          const float b = power_of_two(score[t][n][2 * half + 1] * factor - base);
          sum[t][half] += a + b;
          weights[t][n / 2][n % 2 * 2 + half] = pack_pair<T>(a, b);
        }
      }
    }

#pragma unroll
    for (int c = 0; c < S::kCells; ++c) {
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        uint32_t values[4];
        load_matrices_transposed(
            values, cell_address<C::kChunks>(tile_address + c * C::kBytes + C::kHalfBytes, n, rows.a_row, rows.a_odd));
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply_add<T>(out[t][2 * n], weights[t][c], values[0], values[1]);
          multiply_add<T>(out[t][2 * n + 1], weights[t][c], values[2], values[3]);
        }
      }
    }
    // The next but one tile goes to where this one was.
    __syncthreads();
  }

#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = tile.row + (warp * kTiles + t) * 16 + lane / 4 + half * 8;
      float total = quad_sum(sum[t][half]);
      const int token = row / group;
      if (token >= queries) continue;
      const int head = kv_head * group + row % group;
      float shrink = 1.0f;
      if (problem.sinks != nullptr) {
        const float sink = problem.sinks[head] * kLog2e;
        const float base = __fmul_rn(best[t][half], factor);
        const float most = fmaxf(sink, base);
        shrink = power_of_two(base - most);
        total = total * shrink + power_of_two(sink - most);
      }
      const float scale = shrink / total;
      T* const to = static_cast<T*>(problem.out) + (first_token + token) * problem.out_token_stride +
                    head * problem.out_head_stride + column;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_pair<T>(out[t][n][2 * half] * scale, out[t][n][2 * half + 1] * scale);
      }
    }
  }
}

template <typename T, int kDim>
void run(const AttentionProblem& problem, bool single_queries_too, GpuStream& stream) {
  using S = Shape<kDim>;
  static OncePerDevice prepare;
  prepare([] { allow_shared_memory(prefill_kernel<T, kDim>, S::kSharedBytes); });
  // As many tiles as there can be; where sequences have several queries, fewer of them fill these.
  const int64_t rows = int64_t{problem.num_tokens} * problem.group;
  const int64_t tiles = rows / S::kRows + problem.num_sequences;
  launch("attention", prefill_kernel<T, kDim>, dim3(static_cast<unsigned>(tiles * problem.num_kv_heads)),
         dim3(kThreads), S::kSharedBytes, stream, problem, single_queries_too);
}

template <typename T>
void run_any(const AttentionProblem& problem, bool single_queries_too, GpuStream& stream) {
  switch (problem.head_dim) {
    case 64: return run<T, 64>(problem, single_queries_too, stream);
    case 80: return run<T, 80>(problem, single_queries_too, stream);
    case 96: return run<T, 96>(problem, single_queries_too, stream);
    case 112: return run<T, 112>(problem, single_queries_too, stream);
    case 128: return run<T, 128>(problem, single_queries_too, stream);
    case 160: return run<T, 160>(problem, single_queries_too, stream);
    case 192: return run<T, 192>(problem, single_queries_too, stream);
    case 256: return run<T, 256>(problem, single_queries_too, stream);
    default: QUIRE_CHECK(false, "head_dim=", problem.head_dim);
  }
}

}  // namespace

void attend_prefill(const AttentionProblem& problem, DType dtype, bool single_queries_too, GpuStream& stream) {
  dtype == DType::kBFloat16 ? run_any<BFloat>(problem, single_queries_too, stream)
                            : run_any<Half>(problem, single_queries_too, stream);
}

}  // namespace quire::gpu
