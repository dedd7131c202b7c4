// out[r, n] = sum over k of x[r, k] * weight[n, k] on the tensor cores, for rows of one matrix (the linear op) or of
// several (experts), with what follows: bias, residual or activation.
//
// A block of four warps computes tiles of 16 to 128 rows by 128 columns, going through K in units of 64. Units come
// into a ring of stages in shared memory by asynchronous copies, up to the last stage ahead of what is being computed,
// also over the end of a tile: while a tile is finished the next one's units are under way. Rows of a stage are 128
// bytes, eight pieces of 16 that lie at (piece xor row % 8), so that ldmatrix meets no bank twice. Warps: side by side,
// each all rows by 32 columns; with 128 rows two by two, each 64 by 64. For gated activations each warp has the gate in
// the first half of its columns and its partner in the second, in the same thread.
//
// Two blocks stay on every multiprocessor and share the work as tile_schedule.cuh says.
//
// What limits: reading the weights up to some 128 rows, the tensor cores (mma.sync) beyond.
#include <algorithm>
#include <bit>

#include "core/check.h"
#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/skinny.h"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/gemm/tile.h"
#include "kernels_cuda/gemm/tile_hopper.h"
#include "kernels_cuda/gemm/tile_schedule.cuh"

namespace quire::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kPiece = 8;        // elements of one copy, 16 bytes
constexpr int kRowsAtOnce = 16;  // that the threads of a block copy at once

template <int kRows>
struct Shape {
  static constexpr int kWarpsAcross = kRows == 128 ? 2 : 4;
  static constexpr int kWarpRows = kRows == 128 ? 64 : kRows;
  static constexpr int kWarpColumns = kTileColumns / kWarpsAcross;
  static constexpr int kRowFragments = kWarpRows / 16;
  static constexpr int kColumnFragments = kWarpColumns / 8;
  // Two blocks must fit a multiprocessor of compute capability 9, one any of 8.
  static constexpr int kStages = kRows == 16 ? 5 : kRows == 128 ? 3 : 4;
  static constexpr int kStageElements = (kRows + kTileColumns) * kUnit;
  static constexpr int kSharedBytes = kStages * kStageElements * 2;
  static constexpr int kTileElements = kRows * kTileColumns;
};

/// Position of a piece of 8 elements in a stage.
__device__ inline int swizzled(int row, int piece) {
  return row * kUnit + (piece ^ (row % 8)) * kPiece;
}

/// Brings units to shared memory, in the order in which they will be computed.
template <typename T, int kRows>
class Loader {
 public:
  __device__ Loader(const TileProduct& product, const Schedule& schedule, int column_tiles)
      : product_(product),
        schedule_(schedule),
        column_tiles_(column_tiles),
        row_(static_cast<int>(threadIdx.x) / 8),
        piece_(static_cast<int>(threadIdx.x) % 8) {
    next_piece();
  }

  __device__ bool has_unit() const { return has_unit_; }

  __device__ void copy_weights(T* stage) const {
    T* const tile = stage + kRows * kUnit;
    const int k = unit_ * kUnit + piece_ * kPiece;
    const bool gated = product_.activates && product_.rule.gated;
    constexpr int kHalf = Shape<kRows>::kWarpColumns / 2;
#pragma unroll
    for (int i = 0; i < kTileColumns / kRowsAtOnce; ++i) {
      const int first = i * kRowsAtOnce;
      int ahead = first;  // of the thread's first row
      bool valid = first < columns_left_;
      if (gated) {
        const int column = first / (2 * kHalf) * kHalf + first % kHalf;
        valid = column < columns_left_;
        ahead = column + (first / kHalf % 2 == 1 ? product_.n / 2 : 0);
      }
      valid = valid && k < product_.k;
      const T* const from = valid ? weight_ + static_cast<int64_t>(ahead) * product_.k + k : weight_;
      async_copy_16(tile + swizzled(first + row_, piece_), from, valid);
    }
  }

  __device__ void copy_x(T* stage) const {
    const int k = unit_ * kUnit + piece_ * kPiece;
    const T* const x = static_cast<const T*>(product_.x);
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
      const bool valid = x_rows_[i] >= 0 && k < product_.k;
      async_copy_16(stage + swizzled(i * kRowsAtOnce + row_, piece_),
                    valid ? x + x_rows_[i] * product_.x_stride + k : x, valid);
    }
  }

  __device__ void advance() {
    if (++unit_ == range_.end) next_piece();
  }

 private:
  __device__ void next_piece() {
    has_unit_ = schedule_.next(range_);
    if (!has_unit_) return;
    unit_ = range_.begin;
    const Place place = locate<kRows>(product_, range_.tile, column_tiles_);
    const int column = place.column_tile * result_columns(product_) + row_;
    columns_left_ = result_width(product_) - column;
    weight_ = static_cast<const T*>(product_.weight);
    if (columns_left_ > 0) {
      weight_ += (static_cast<int64_t>(place.matrix) * product_.n + column) * product_.k;
    }
#pragma unroll
    for (int i = 0; i < kRows / kRowsAtOnce; ++i) {
      const int row = i * kRowsAtOnce + row_;
      int x_row = -1;
      if (row < place.num_rows) {
        x_row = place.row_begin + row;
        if (product_.x_rows != nullptr) x_row = product_.x_rows[x_row];
      }
      x_rows_[i] = x_row;
    }
  }

  const TileProduct& product_;
  Schedule schedule_;
  int column_tiles_;
  int row_, piece_;  // of the rows that are copied at once: this thread's
  bool has_unit_ = false;
  Piece range_;
  int unit_ = 0;
  const T* weight_ = nullptr;  // this thread's first row of the tile
  int columns_left_ = 0;       // from there to the end of the matrix
  int64_t x_rows_[kRows / kRowsAtOnce];
};

/// One warp's sums of a tile.
template <int kRows>
struct Sums {
  float of[Shape<kRows>::kRowFragments][Shape<kRows>::kColumnFragments][4];

  __device__ void clear() {
    each([](float& value, int) { value = 0.0f; });
  }

  template <typename Work>
  __device__ void each(const Work& work) {
#pragma unroll
    for (int r = 0; r < Shape<kRows>::kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < Shape<kRows>::kColumnFragments; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) work(of[r][c][i], (r * Shape<kRows>::kColumnFragments + c) * 4 + i);
      }
    }
  }
};

/// sums += the stage's x * its weights^T, in ascending order of k.
template <typename T, int kRows>
__device__ void multiply_unit(Sums<kRows>& sums, const T* stage) {
  using S = Shape<kRows>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = warp / S::kWarpsAcross * S::kWarpRows;
  const int first_column = warp % S::kWarpsAcross * S::kWarpColumns;
  const uint32_t x = shared_address(stage);
  const uint32_t weights = shared_address(stage + kRows * kUnit);
  uint32_t a[2][S::kRowFragments][4];
  uint32_t b[2][S::kColumnFragments / 2][4];
  const auto load = [&](int step) {
    const int buffer = step % 2;
#pragma unroll
    for (int r = 0; r < S::kRowFragments; ++r) {
      load_matrices(a[buffer][r], x + 2 * swizzled(first_row + r * 16 + lane % 16, step * 2 + lane / 16));
    }
#pragma unroll
    for (int c = 0; c < S::kColumnFragments / 2; ++c) {
      load_matrices(b[buffer][c],
                    weights + 2 * swizzled(first_column + c * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
    }
  };
  load(0);
#pragma unroll
  for (int step = 0; step < kUnit / 16; ++step) {
    if (step + 1 < kUnit / 16) load(step + 1);
    const int buffer = step % 2;
#pragma unroll
    for (int r = 0; r < S::kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < S::kColumnFragments; ++c) {
        multiply_add<T>(sums.of[r][c], a[buffer][r], b[buffer][c / 2][c % 2 * 2], b[buffer][c / 2][c % 2 * 2 + 1]);
      }
    }
  }
}

/// Join the sums of a tile that several blocks share. True in the block that comes last and so has them all.
template <int kRows>
__device__ bool join_parts(const TileProduct& product, const Piece& piece, Sums<kRows>& sums) {
  __shared__ bool is_last;
  constexpr int kPerThread = Shape<kRows>::kTileElements / kThreads;
  constexpr int kVectors = kPerThread / 4;
  float4* const first =
      reinterpret_cast<float4*>(product.partials + static_cast<int64_t>(piece.slot) * Shape<kRows>::kTileElements) +
      threadIdx.x;
  float4* const own = first + static_cast<int64_t>(piece.part) * kVectors * kThreads;
  float* const values = &sums.of[0][0][0];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    own[i * kThreads] = make_float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(&product.counters[piece.counter], 1u) == static_cast<unsigned>(piece.num_parts - 1);
    if (is_last) product.counters[piece.counter] = 0;
  }
  __syncthreads();
  if (!is_last) return false;
  __threadfence();
  sums.clear();
  for (int part = 0; part < piece.num_parts; ++part) {
    const float4* const from = first + static_cast<int64_t>(part) * kVectors * kThreads;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const float4 more = __ldcg(from + i * kThreads);
      values[4 * i] += more.x;
      values[4 * i + 1] += more.y;
      values[4 * i + 2] += more.z;
      values[4 * i + 3] += more.w;
    }
  }
  return true;
}

template <typename T>
__device__ void store_pair(const TileProduct& product, int64_t at, float first, float second, bool both) {
  if (product.out_is_float32) {
    float* const out = static_cast<float*>(product.out) + at;
    if (both) {
      *reinterpret_cast<float2*>(out) = make_float2(first, second);
    } else {
      *out = first;
    }
  } else {
    T* const out = static_cast<T*>(product.out) + at;
    if (both) {
      *reinterpret_cast<uint32_t*>(out) = pack_pair<T>(first, second);
    } else {
      *out = from_float<T>(first);
    }
  }
}

template <typename T, int kRows>
__device__ void store_tile(const TileProduct& product, const Place& place, const Sums<kRows>& sums) {
  using S = Shape<kRows>;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool gated = product.activates && product.rule.gated;
  const int width = result_width(product);
  const int warp_columns = gated ? S::kWarpColumns / 2 : S::kWarpColumns;
  const int first_column =
      place.column_tile * result_columns(product) + warp % S::kWarpsAcross * warp_columns + lane % 4 * 2;
  const int first_row = warp / S::kWarpsAcross * S::kWarpRows + lane / 4;
  const float* const bias = product.bias == nullptr ? nullptr : product.bias + int64_t{place.matrix} * product.n;
#pragma unroll
  for (int c = 0; c < S::kColumnFragments; ++c) {
    if (gated && c >= S::kColumnFragments / 2) break;
    const int column = first_column + c * 8;
    if (column >= width) break;
    const bool both = column + 1 < width;
    float bias0 = 0.0f, bias1 = 0.0f, other_bias0 = 0.0f, other_bias1 = 0.0f;
    if (bias != nullptr) {
      bias0 = bias[column];
      if (both) bias1 = bias[column + 1];
      if (gated) {
        other_bias0 = bias[width + column];
        if (both) other_bias1 = bias[width + column + 1];
      }
    }
#pragma unroll
    for (int r = 0; r < S::kRowFragments; ++r) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + r * 16 + half * 8;
        if (row >= place.num_rows) continue;
        float value0 = sums.of[r][c][half * 2] + bias0;
        float value1 = sums.of[r][c][half * 2 + 1] + bias1;
        if (product.activates) {
          constexpr int kPartner = S::kColumnFragments / 2;
          const int partner = c % kPartner + kPartner;
          value0 = activate_roughly(product.rule, value0, sums.of[r][partner][half * 2] + other_bias0);
          value1 = activate_roughly(product.rule, value1, sums.of[r][partner][half * 2 + 1] + other_bias1);
        }
        const int64_t out_row = place.row_begin + row;
        if (product.residual != nullptr) {
          const float* const residual = product.residual + out_row * product.residual_stride + column;
          value0 += residual[0];
          if (both) value1 += residual[1];
        }
        store_pair<T>(product, out_row * product.out_stride + column, value0, value1, both);
      }
    }
  }
}

template <typename T, int kRows, bool kChunked>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor) tile_kernel(const TileProduct product) {
  using S = Shape<kRows>;
  QUIRE_DYNAMIC_SHARED(unsigned char, shared);
  T* const stages = reinterpret_cast<T*>(shared);
  let_next_start();
  // Row tiles are made by an earlier kernel. Without them, weights can be read before the wait.
  const bool has_row_tiles = product.row_tiles != nullptr;
  if (has_row_tiles) wait_for_previous();
  const int column_tiles = count_column_tiles(product);
  Schedule schedule(product, count_tiles(product, kRows, column_tiles), (product.k + kUnit - 1) / kUnit, kRows);
  Loader<T, kRows> loader(product, schedule, column_tiles);
  {
    Loader<T, kRows> x_loader = loader;
    for (int stage = 0; stage < S::kStages - 1 && loader.has_unit(); ++stage) {
      loader.copy_weights(stages + stage * S::kStageElements);
      loader.advance();
    }
    if (!has_row_tiles) wait_for_previous();
    for (int stage = 0; stage < S::kStages - 1; ++stage) {
      if (x_loader.has_unit()) {
        x_loader.copy_x(stages + stage * S::kStageElements);
        x_loader.advance();
      }
      async_copy_commit();
    }
  }
  int stage = 0;
  Piece piece;
  Sums<kRows> sums;
  while (schedule.next(piece)) {
    sums.clear();
    Sums<kRows> chunk;
    if constexpr (kChunked) chunk.clear();
    int chunk_end = schedule.chunk_units();
    for (int unit = piece.begin; unit < piece.end; ++unit) {
      async_copy_wait<S::kStages - 2>();
      // Everybody sees this stage, and is done with the one before, which is filled next.
      __syncthreads();
      if (loader.has_unit()) {
        T* const free_stage = stages + (stage == 0 ? S::kStages - 1 : stage - 1) * S::kStageElements;
        loader.copy_x(free_stage);
        loader.copy_weights(free_stage);
        loader.advance();
      }
      async_copy_commit();
      if constexpr (kChunked) {
        multiply_unit<T, kRows>(chunk, stages + stage * S::kStageElements);
        if (unit + 1 == chunk_end || unit + 1 == piece.end) {
          const float* const values = &chunk.of[0][0][0];
          sums.each([&](float& value, int i) { value += values[i]; });
          chunk.clear();
          chunk_end += schedule.chunk_units();
        }
      } else {
        multiply_unit<T, kRows>(sums, stages + stage * S::kStageElements);
      }
      stage = stage == S::kStages - 1 ? 0 : stage + 1;
    }
    if (piece.num_parts > 1 && !join_parts<kRows>(product, piece, sums)) continue;
    store_tile<T, kRows>(product, locate<kRows>(product, piece.tile, column_tiles), sums);
  }
}

template <typename T, int kRows, bool kChunked>
void launch_tiles(const TileProduct& product, GpuStream& stream) {
  using S = Shape<kRows>;
  static OncePerDevice prepare;
  prepare([] { allow_shared_memory(tile_kernel<T, kRows, kChunked>, S::kSharedBytes); });
  const Device& device = stream.device();
  // Before 9.0 a multiprocessor's shared memory is enough for one block only.
  const int blocks = device.shared_memory_per_block >= 200 * 1024 ? kBlocksPerMultiprocessor : 1;
  launch("tiles", tile_kernel<T, kRows, kChunked>, dim3(static_cast<unsigned>(blocks * device.num_multiprocessors)),
         dim3(kThreads), S::kSharedBytes, stream, product);
}

template <typename T>
void launch_tiles(const TileProduct& product, int rows_per_tile, GpuStream& stream) {
  const bool chunked = product.chunks > 1;
  QUIRE_CHECK(!chunked || rows_per_tile == 16 || rows_per_tile == 64, "rows_per_tile=", rows_per_tile);
  switch (rows_per_tile) {
    case 16: return chunked ? launch_tiles<T, 16, true>(product, stream) : launch_tiles<T, 16, false>(product, stream);
    case 32: return launch_tiles<T, 32, false>(product, stream);
    case 64: return chunked ? launch_tiles<T, 64, true>(product, stream) : launch_tiles<T, 64, false>(product, stream);
    default: return launch_tiles<T, 128, false>(product, stream);
  }
}

}  // namespace

bool tiles_fit(const Device& device) {
  return device.compute_capability >= 80;
}

int tile_rows_for(int64_t rows, const TileProduct& product, const GpuStream& stream) {
  if (rows <= 16) return 16;
  const bool hopper = hopper_tiles_fit(stream.device());
  if (stream.resources().deterministic) return hopper ? 128 : 64;
  if (rows <= 64) return rows <= 32 ? 32 : 64;
  if (!hopper || rows <= 128) return 128;
  const int64_t high_tiles = (rows + 255) / 256 * count_column_tiles(product);
  return high_tiles >= stream.device().num_multiprocessors ? 256 : 128;
}

void multiply_tiles(TileProduct product, DType dtype, int rows_per_tile, int32_t least_row_tiles, GpuStream& stream) {
  const Resources& resources = stream.resources();
  const size_t partial_bytes = static_cast<size_t>(rows_per_tile) * kTileColumns * sizeof(float);
  product.partials = static_cast<float*>(resources.scratch);
  product.max_partials = static_cast<int32_t>(std::min<size_t>(resources.scratch_bytes / partial_bytes, 1 << 20));
  product.counters = resources.counters;
  product.max_counters = static_cast<int32_t>(std::min<size_t>(resources.num_counters, 1 << 20));
  product.deterministic = resources.deterministic;
  product.chunks = 1;
  if (resources.deterministic) {
    constexpr int64_t kMostChunks = 8;
    const int64_t least_tiles = int64_t{count_column_tiles(product)} * least_row_tiles;
    const int64_t units = (product.k + kUnit - 1) / kUnit;
    const int64_t wanted = kBlocksPerMultiprocessor * stream.device().num_multiprocessors / least_tiles;
    const int64_t most = std::clamp<int64_t>(wanted, 1, std::clamp<int64_t>(units / kLeastUnits, 1, kMostChunks));
    const auto chunks = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(most)));
    // As many as it takes when each but the last is equally long.
    const int64_t chunk_units = (units + chunks - 1) / chunks;
    product.chunks = static_cast<int32_t>((units + chunk_units - 1) / chunk_units);
  }
  if (product.row_tiles == nullptr && product.x_rows == nullptr && skinny_fits(product.num_rows, product.n, stream)) {
    return multiply_skinny(product, dtype, stream);
  }
  if (hopper_tiles_fit(stream.device())) return multiply_hopper_tiles(product, dtype, rows_per_tile, stream);
  if (dtype == DType::kBFloat16) return launch_tiles<BFloat>(product, rows_per_tile, stream);
  return launch_tiles<Half>(product, rows_per_tile, stream);
}

bool tiles_are_faster(const LinearArgs& product, const ActivationRule* activation, const GpuStream& stream) {
  // A deterministic stream may not tell rows.
  if (!hopper_tiles_fit(stream.device()) || stream.resources().deterministic) return false;
  const int64_t rows = product.x.shape[0];
  if (skinny_fits(rows, product.weight->n, stream)) return true;
  // Beyond, finishing a tile's gates takes longer than another kernel does.
  constexpr int64_t kMostActivatedRows = 32;
  return activation != nullptr && rows <= kMostActivatedRows;
}

size_t tile_scratch_bytes(const Device& device) {
  if (hopper_tiles_fit(device)) return 0;
  return static_cast<size_t>(2 * kBlocksPerMultiprocessor * device.num_multiprocessors) * 128 * kTileColumns *
         sizeof(float);
}

size_t tile_counters(const Device& device) {
  if (hopper_tiles_fit(device)) return 0;
  return static_cast<size_t>(kBlocksPerMultiprocessor * device.num_multiprocessors);
}

}  // namespace quire::gpu
