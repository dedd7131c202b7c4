// out[r, n] = sum over k of x[r, k] * weight[n, k] on the matrix cores, for rows of one matrix (the linear op) or of
// several (experts), with what follows: bias, residual or activation.
//
// A block of four waves computes tiles of 16 to 128 rows by 128 columns, going through K in units of 64 (tile_stage.h).
// One unit is in shared memory, the next on its way through registers while that one is multiplied, also over the end
// of a tile: so there is room for two blocks on a compute unit, whose barriers do not coincide. For gated activations
// each wave has the gate in the first half of its columns and its partner in the second, in the same lane. Blocks share
// the work as kernels_cuda/gemm/tile_schedule.cuh says.
//
// What limits: reading the weights up to some 128 rows, beyond them the matrix cores, fed from shared memory at half
// its rate.
#include <algorithm>

#include "core/check.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/gemm/tile.h"
#include "kernels_cuda/gemm/tile_schedule.cuh"
#include "kernels_hip/common/matrix_lanes.h"
#include "kernels_hip/gemm/store_run.h"
#include "kernels_hip/gemm/tile_stage.h"

namespace quire::gpu {
namespace {

constexpr int kBlocksPerMultiprocessor = 2;
/// Of 64 lanes to a wave.
constexpr int kMostThreads = kTileWaves * 64;

/// The sums of a higher tile do not fit the registers of waves of 32 lanes.
__host__ __device__ constexpr int highest_tile(int lanes) {
  return lanes == 64 ? 128 : lanes == 32 ? 64 : 0;
}

static_assert(kStageDepth == kUnit && kStageColumns == kTileColumns);

/// Brings units to registers, in the order in which they will be computed.
template <typename T, int kRows, int kLanes>
class Loader {
 public:
  using Shape = TileShape<kRows, kLanes>;

  __device__ Loader(const TileProduct& product, const Schedule& schedule, int column_tiles)
      : product_(product),
        schedule_(schedule),
        column_tiles_(column_tiles),
        row_(static_cast<int>(threadIdx.x) / kRowChunks),
        chunk_(static_cast<int>(threadIdx.x) % kRowChunks) {
    next_piece();
  }

  __device__ bool has_unit() const { return has_unit_; }

  /// The next unit.
  __device__ void load(StageChunks<kRows, kLanes>& chunks) {
    const int k = unit_ * kUnit + chunk_ * 8;
    const bool inside = k < product_.k;
    // From the arguments' pointers each time, which the compiler knows to be of global memory: loads of pointers that
    // were kept would count as loads of shared memory too, and be waited for with these.
    const T* const x = static_cast<const T*>(product_.x);
    const T* const weight = static_cast<const T*>(product_.weight);
#pragma unroll
    for (int i = 0; i < Shape::kRowCopies; ++i) {
      const bool valid = inside && x_rows_[i] >= 0;
      chunks.x[i] = load_chunk(x + x_rows_[i] * product_.x_stride + k, valid);
    }
    const bool gated = product_.activates && product_.rule.gated;
    constexpr int kHalf = Shape::kWaveColumns / 2;
#pragma unroll
    for (int i = 0; i < Shape::kColumnCopies; ++i) {
      // The thread's row of the stage; of a gated matrix kHalf rows of the gate and as many of its partner take turns.
      const int at = i * Shape::kRowsAtOnce + row_;
      const int column = gated ? at / (2 * kHalf) * kHalf + at % kHalf : at;
      const bool valid = inside && column < columns_;
      const int64_t row = first_weight_ + column + (gated && at / kHalf % 2 == 1 ? product_.n / 2 : 0);
      chunks.weights[i] = load_chunk(weight + row * product_.k + k, valid);
    }
    if (++unit_ == range_.end) next_piece();
  }

 private:
  __device__ void next_piece() {
    has_unit_ = schedule_.next(range_);
    if (!has_unit_) return;
    unit_ = range_.begin;
    const Place place = locate<kRows>(product_, range_.tile, column_tiles_);
    const int first_column = place.column_tile * result_columns(product_);
    columns_ = result_width(product_) - first_column;
    first_weight_ = static_cast<int64_t>(place.matrix) * product_.n + first_column;
#pragma unroll
    for (int i = 0; i < Shape::kRowCopies; ++i) {
      const int row = i * Shape::kRowsAtOnce + row_;
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
  int row_, chunk_;  // of the rows that are copied at once: this thread's
  bool has_unit_ = false;
  Piece range_;
  int unit_ = 0;
  int64_t first_weight_ = 0;  // the tile's first row
  int columns_ = 0;           // from there to the end of the matrix
  int64_t x_rows_[Shape::kRowCopies];
};

/// Join the sums of a tile that several blocks share. True in the block that comes last and so has them all.
template <int kRows, int kLanes>
__device__ bool join_parts(const TileProduct& product, const Piece& piece, TileSums<kRows, kLanes>& sums) {
  __shared__ bool is_last;
  constexpr int kThreads = TileShape<kRows, kLanes>::kThreads;
  constexpr int kTileElements = kRows * kTileColumns;
  constexpr int kFragments = TileShape<kRows, kLanes>::kColumnFragments;
  constexpr int kValues = MatrixCore<kLanes>::kValues;
  // Value i of a thread lies kThreads values behind its value i - 1: what the threads write together is one run.
  float* const first = product.partials + static_cast<int64_t>(piece.slot) * kTileElements + threadIdx.x;
  float* const own = first + static_cast<int64_t>(piece.part) * kTileElements;
  sums.each([&](float& value, int r, int c, int i) { own[((r * kFragments + c) * kValues + i) * kThreads] = value; });
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
    const float* const from = first + static_cast<int64_t>(part) * kTileElements;
    sums.each([&](float& value, int r, int c, int i) {
      value += load_past_l1(from + ((r * kFragments + c) * kValues + i) * kThreads);
    });
  }
  return true;
}

/// What follows the product, for one fragment of a lane.
template <int kLanes>
__device__ void finish(const TileProduct& product, const float* bias, int64_t out_row, int column, int count,
                       const Result<kLanes>& sums, const Result<kLanes>& partners, float (&values)[256 / kLanes]) {
  const int width = result_width(product);
#pragma unroll
  for (int i = 0; i < MatrixCore<kLanes>::kValues; ++i) {
    values[i] = sums.values[i];
    if (i >= count) continue;
    if (bias != nullptr) values[i] += bias[column + i];
    if (product.activates) {
      float partner = partners.values[i];
      if (product.rule.gated && bias != nullptr) partner += bias[width + column + i];
      values[i] = activate_roughly(product.rule, values[i], partner);
    }
    if (product.residual != nullptr) values[i] += product.residual[out_row * product.residual_stride + column + i];
  }
}

template <typename T, int kRows, int kLanes>
__device__ void store_tile(const TileProduct& product, const Place& place, const TileSums<kRows, kLanes>& sums) {
  using Core = MatrixCore<kLanes>;
  using Shape = TileShape<kRows, kLanes>;
  const int wave = wave_of_block<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const bool gated = product.activates && product.rule.gated;
  const int width = result_width(product);
  const int first_column =
      place.column_tile * result_columns(product) + Shape::first_column(wave) / (gated ? 2 : 1) + Core::first_row(lane);
  const float* const bias = product.bias == nullptr ? nullptr : product.bias + int64_t{place.matrix} * product.n;
  constexpr int kPartner = Shape::kColumnFragments / 2;
#pragma unroll
  for (int c = 0; c < Shape::kColumnFragments; ++c) {
    const int column = first_column + c * 16;
    const int count = gated && c >= kPartner ? 0 : width - column;
#pragma unroll
    for (int r = 0; r < Shape::kRowFragments; ++r) {
      const int row = Shape::first_row(wave) + r * 16 + Core::right_row(lane);
      if (count > 0 && row < place.num_rows) {
        const int64_t out_row = place.row_begin + row;
        const int64_t at = out_row * product.out_stride + column;
        float values[Core::kValues];
        finish<kLanes>(product, bias, out_row, column, count, sums.of[r][c], sums.of[r][c % kPartner + kPartner],
                       values);
        if (product.out_is_float32) {
          store_run(static_cast<float*>(product.out) + at, values, count);
        } else {
          store_run(static_cast<T*>(product.out) + at, values, count);
        }
      }
    }
  }
}

/// What a block does, for waves of kLanes.
template <typename T, int kRows, bool kChunked, int kLanes>
__device__ void compute_tiles(const TileProduct& product, Chunk* stage) {
  const int column_tiles = count_column_tiles(product);
  Schedule schedule(product, count_tiles(product, kRows, column_tiles), (product.k + kUnit - 1) / kUnit, kRows);
  Loader<T, kRows, kLanes> loader(product, schedule, column_tiles);
  const int wave = wave_of_block<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  StageChunks<kRows, kLanes> chunks;
  if (loader.has_unit()) loader.load(chunks);
  Piece piece;
  TileSums<kRows, kLanes> sums;
  while (schedule.next(piece)) {
    sums.clear();
    TileSums<kRows, kLanes> chunk;
    if constexpr (kChunked) chunk.clear();
    int chunk_end = schedule.chunk_units();
    for (int unit = piece.begin; unit < piece.end; ++unit) {
      __syncthreads();  // everybody is done with the unit before
      chunks.store(stage, static_cast<int>(threadIdx.x));
      __syncthreads();
      if (loader.has_unit()) loader.load(chunks);
      if constexpr (kChunked) {
        multiply_stage<T, kRows, kLanes>(chunk, stage, wave, lane);
        if (unit + 1 == chunk_end || unit + 1 == piece.end) {
          sums.each([&](float& value, int r, int c, int i) { value += chunk.of[r][c].values[i]; });
          chunk.clear();
          chunk_end += schedule.chunk_units();
        }
      } else {
        multiply_stage<T, kRows, kLanes>(sums, stage, wave, lane);
      }
    }
    if (piece.num_parts > 1 && !join_parts<kRows, kLanes>(product, piece, sums)) continue;
    store_tile<T, kRows, kLanes>(product, locate<kRows>(product, piece.tile, column_tiles), sums);
  }
}

template <typename T, int kRows, bool kChunked>
__global__ void __launch_bounds__(kMostThreads, kBlocksPerMultiprocessor) tile_kernel(const TileProduct product) {
  if constexpr (kRows <= highest_tile(kMatrixLanes)) {
    __shared__ Chunk stage[TileShape<kRows, kMatrixLanes>::kStageChunks];
    compute_tiles<T, kRows, kChunked, kMatrixLanes>(product, stage);
  }
}

template <typename T, int kRows, bool kChunked>
void launch_tiles(const TileProduct& product, GpuStream& stream) {
  const Device& device = stream.device();
  const int threads = kTileWaves * matrix_lanes(device);
  launch("tiles", tile_kernel<T, kRows, kChunked>,
         dim3(static_cast<unsigned>(kBlocksPerMultiprocessor * device.num_multiprocessors)),
         dim3(static_cast<unsigned>(threads)), 0, stream, product);
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
  return matrix_lanes(device) != 0;
}

bool tiles_are_faster(const LinearArgs&, const ActivationRule* activation, const GpuStream& stream) {
  return activation != nullptr && (stream.resources().deterministic || stream.resources().blas == nullptr);
}

int tile_rows_for(int64_t rows, const TileProduct&, const GpuStream& stream) {
  if (rows <= 16) return 16;
  if (stream.resources().deterministic) return 64;
  if (rows <= 32) return 32;
  return rows <= 64 ? 64 : highest_tile(matrix_lanes(stream.device()));
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
    // From the matrix alone, and the device; equally long but for the last.
    constexpr int64_t kMostChunks = 8;
    const int64_t units = (product.k + kUnit - 1) / kUnit;
    const int64_t tiles = int64_t{count_column_tiles(product)} * least_row_tiles;
    const int64_t blocks = kBlocksPerMultiprocessor * stream.device().num_multiprocessors;
    const int64_t most = std::clamp<int64_t>(units / kLeastUnits, 1, kMostChunks);
    const int64_t chunk_units = (units - 1) / std::clamp<int64_t>(blocks / tiles, 1, most) + 1;
    product.chunks = static_cast<int32_t>((units - 1) / chunk_units + 1);
  }
  if (dtype == DType::kBFloat16) return launch_tiles<BFloat>(product, rows_per_tile, stream);
  return launch_tiles<Half>(product, rows_per_tile, stream);
}

size_t tile_scratch_bytes(const Device& device) {
  return static_cast<size_t>(2 * kBlocksPerMultiprocessor * device.num_multiprocessors) * 128 * kTileColumns *
         sizeof(float);
}

size_t tile_counters(const Device& device) {
  return static_cast<size_t>(kBlocksPerMultiprocessor * device.num_multiprocessors);
}

}  // namespace quire::gpu
