// Attention of many queries: out = softmax(q . K^T) V, keys in tiles of 32 (64 for heads of 64), causal.
//
// A block has four waves and computes a tile of rows of one sequence and kv head: the rows are (token, query head of
// the kv head) pairs, token by token, so that any number of query heads shares the keys. A wave has 16 rows or twice as
// many, with q, scores, weights and sums in registers (query_rows.h). One tile of keys and values is in shared memory,
// the next on its way through registers. Limited by the matrix cores, and by the exponentials and the roundings
// between the two products.
//
// A row's result depends on the row alone: its keys are taken in tiles at fixed positions, in order, and a key that it
// does not see adds exact zeros.
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/query_tile.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_hip/attention/pages.h"
#include "kernels_hip/attention/query_rows.h"
#include "kernels_hip/common/matrix_lanes.h"

namespace quire::gpu {
namespace {

constexpr int kWaves = 4;

/// How many times 16 rows a wave has, as registers allow; 0: the kernel is not for such waves.
__host__ __device__ constexpr int row_tiles(int lanes, int dim) {
  if (lanes == 64) return dim <= 128 ? 2 : 1;
  return lanes == 32 && dim <= 128 ? 1 : 0;
}

/// kTiles: of 16 rows, a wave's.
template <int kDim, int kTiles>
struct Shape {
  static constexpr int kChunks = kDim / 8;
  static constexpr int kRows = kWaves * kTiles * 16;
  /// As many as leave registers for the next tile.
  static constexpr int kCells = kDim > 64 || kTiles == 1 ? 2 : 4;
  static constexpr int kKeys = kCells * kCellKeys;
  static constexpr int kQuads = kKeys / kQuadKeys;
};

/// The queries of a block.
struct Rows {
  QueryTile tile;
  int first_position;
  int kv_head, group;
  int low, high;  ///< positions of the first and the last row
  int first_key;  ///< that any of them sees
  int window;

  __device__ int token(int row) const { return (tile.row + row) / group; }
  __device__ int head(int row) const { return kv_head * group + (tile.row + row) % group; }
  __device__ int position(int row) const { return first_position + min(token(row), tile.queries - 1); }

  template <int kRows>
  static __device__ Rows of(const AttentionProblem& problem, const QueryTile& tile, int kv_head) {
    Rows rows{};
    rows.tile = tile;
    rows.first_position = tile.context - tile.queries;
    rows.kv_head = kv_head;
    rows.group = problem.group;
    rows.window = problem.window;
    rows.low = rows.position(0);
    rows.high = rows.position(kRows - 1);
    rows.first_key = rows.window > 0 ? max(0, rows.low - rows.window + 1) : 0;
    return rows;
  }
};

/// Brings tiles of keys and values to shared memory. A thread takes one chunk of the keys and of the values of a quad,
/// or of several.
template <int kDim, int kTiles, int kLanes>
class TileLoader {
 public:
  using S = Shape<kDim, kTiles>;
  static constexpr int kThreads = kWaves * kLanes;
  static constexpr int kUnits = S::kQuads * S::kChunks;
  static constexpr int kOwn = (kUnits + kThreads - 1) / kThreads;

  __device__ void load(const AttentionProblem& problem, const Rows& rows, int key) {
    const std::byte* const heads = problem.pages + rows.kv_head * problem.head_bytes;
    const int32_t* const table = problem.block_tables + rows.tile.table;
    each_unit([&](int i, int quad, int chunk) {
      load_quad<kDim>(problem, heads, table, key + quad * kQuadKeys, rows.first_key, rows.tile.context, chunk, keys_[i],
                      values_[i]);
    });
  }

  __device__ void store(Chunk* keys, HalfChunk* values) const {
    each_unit([&](int i, int quad, int chunk) {
#pragma unroll
      for (int k = 0; k < kQuadKeys; ++k) {
        write_shared(keys + key_place<kDim, S::kKeys, kLanes>(quad * kQuadKeys + k, chunk), keys_[i][k]);
      }
      store_quad<kDim>(values, values_[i], quad, chunk);
    });
  }

 private:
  template <typename Work>
  static __device__ void each_unit(const Work& work) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int unit = i * kThreads + static_cast<int>(threadIdx.x);
      if (unit < kUnits) work(i, unit / S::kChunks, unit % S::kChunks);
    }
  }

  Chunk keys_[kOwn][kQuadKeys];
  Chunk values_[kOwn][kQuadKeys];
};

/// A wave's rows, and what is known of them.
template <typename T, int kDim, int kTiles, int kLanes>
struct WaveRows {
  using S = Shape<kDim, kTiles>;
  using Core = MatrixCore<kLanes>;
  static constexpr int kSteps = (kDim + Core::kStep - 1) / Core::kStep;

  Operand<kLanes> q[kTiles][kSteps];
  RowSums<kDim, kLanes> sums[kTiles];
  RowView views[kTiles];

  /// The lane's row of a tile, in the block.
  static __device__ int row_of(int wave, int lane, int t) { return (wave * kTiles + t) * 16 + Core::right_row(lane); }

  __device__ void start(const AttentionProblem& problem, const Rows& rows, int wave, int lane) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int row = row_of(wave, lane, t);
      const bool real = rows.token(row) < rows.tile.queries;
      const T* const from = static_cast<const T*>(problem.q) +
                            (rows.tile.token + (real ? rows.token(row) : 0)) * problem.q_token_stride +
                            rows.head(row) * problem.q_head_stride;
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < Core::kLaneChunks; ++i) {
          const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
          q[t][step].set(i, load_chunk(from + chunk * 8, real && chunk < S::kChunks));
        }
      }
      const int position = rows.position(row);
      views[t].first = rows.window > 0 ? max(0, position - rows.window + 1) : 0;
      views[t].end = position + 1;
      views[t].slope = problem.alibi_slopes != nullptr ? problem.alibi_slopes[rows.head(row)] : 0.0f;
      sums[t].clear();
    }
  }

  /// A tile of keys from `key` on.
  __device__ void add(const Chunk* keys, const HalfChunk* values, int key, bool masked, const ScoreRules& rules,
                      int lane) {
    Result<kLanes> scores[kTiles][S::kCells] = {};
#pragma unroll
    for (int c = 0; c < S::kCells; ++c) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step) {
        const auto operand = key_operand<kDim, S::kKeys, kLanes>(keys, c * kCellKeys, step, lane);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) multiply_step<T, kLanes>(scores[t][c], operand, q[t][step]);
      }
    }
    Weights<kLanes> weights[kTiles][S::kCells];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      sums[t].template add_scores<T, S::kCells>(scores[t], key, views[t], masked, rules, lane, weights[t]);
    }
#pragma unroll
    for (int c = 0; c < S::kCells; ++c) {
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {
        const auto operand = value_operand<kDim, kLanes>(values, c * kCellKeys / kQuadKeys, n * 16, lane);
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          multiply_add<T, kLanes>(sums[t].out[n].values, operand.words, weights[t][c].words);
        }
      }
    }
  }

  __device__ void write(const AttentionProblem& problem, const Rows& rows, int wave, int lane) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int row = row_of(wave, lane, t);
      const int token = rows.token(row), head = rows.head(row);
      const float scale = sums[t].normaliser(problem.sinks != nullptr ? problem.sinks + head : nullptr);
      if (token < rows.tile.queries) {
        T* const to = static_cast<T*>(problem.out) + (rows.tile.token + token) * problem.out_token_stride +
                      head * problem.out_head_stride + Core::first_row(lane);
#pragma unroll
        for (int n = 0; n < kDim / 16; ++n) {
          Vector<T, Core::kValues> run;
#pragma unroll
          for (int i = 0; i < Core::kValues; ++i) run[i] = from_float<T>(sums[t].out[n].values[i] * scale);
          *reinterpret_cast<Vector<T, Core::kValues>*>(to + n * 16) = run;
        }
      }
    }
  }
};

template <typename T, int kDim, int kTiles, int kLanes>
__device__ void attend(const AttentionProblem& problem, bool single_queries_too, Chunk* keys, HalfChunk* values) {
  using S = Shape<kDim, kTiles>;
  const int kv_head = static_cast<int>(blockIdx.x) % problem.num_kv_heads;
  const QueryTile tile = find_tile<kWaves * kLanes>(problem, S::kRows, single_queries_too,
                                                    static_cast<int>(blockIdx.x) / problem.num_kv_heads);
  if (tile.row < 0) return;
  const Rows rows = Rows::of<S::kRows>(problem, tile, kv_head);
  const int wave = wave_of_block<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int wave_high = rows.position((wave + 1) * kTiles * 16 - 1);
  const ScoreRules rules(problem.scale, problem.softcap, problem.alibi_slopes != nullptr);

  TileLoader<kDim, kTiles, kLanes> loader;
  int key = rows.first_key / S::kKeys * S::kKeys;
  loader.load(problem, rows, key);
  WaveRows<T, kDim, kTiles, kLanes> own;
  own.start(problem, rows, wave, lane);
  for (; key <= rows.high; key += S::kKeys) {
    __syncthreads();  // everybody is done with the tile before
    loader.store(keys, values);
    __syncthreads();
    if (key + S::kKeys <= rows.high) loader.load(problem, rows, key + S::kKeys);
    const bool masked = key + S::kKeys - 1 > rows.low || (rows.window > 0 && key <= rows.high - rows.window);
    if (key <= wave_high) own.add(keys, values, key, masked, rules, lane);
  }
  own.write(problem, rows, wave, lane);
}

template <typename T, int kDim>
__global__ void __launch_bounds__(kWaves * 64, 2)
    prefill_kernel(const AttentionProblem problem, const bool single_queries_too) {
  constexpr int kTiles = row_tiles(kMatrixLanes, kDim);
  if constexpr (kTiles > 0) {
    using S = Shape<kDim, kTiles>;
    __shared__ Chunk keys[S::kKeys * S::kChunks];
    __shared__ HalfChunk values[S::kQuads * kDim];
    attend<T, kDim, kTiles, kMatrixLanes>(problem, single_queries_too, keys, values);
  }
}

template <typename T, int kDim>
void run(const AttentionProblem& problem, bool single_queries_too, GpuStream& stream) {
  const int lanes = matrix_lanes(stream.device());
  // As many tiles as there can be; where sequences have several queries, fewer of them fill these.
  const int64_t rows = int64_t{problem.num_tokens} * problem.group;
  const int64_t tiles = rows / (kWaves * 16 * row_tiles(lanes, kDim)) + problem.num_sequences;
  launch("attention", prefill_kernel<T, kDim>, dim3(static_cast<unsigned>(tiles * problem.num_kv_heads)),
         dim3(static_cast<unsigned>(kWaves * lanes)), 0, stream, problem, single_queries_too);
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
