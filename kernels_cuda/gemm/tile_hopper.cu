// The products of tile.cuh with warpgroup instructions. Sides are swapped: 128 rows of the matrix (gated: 64 and their
// partners) are the rows of the tensor cores' product, 16 to 256 rows of x its columns, so that few rows waste little.
//
// A block is two warpgroups that multiply, 64 rows of the matrix each, and one warp that fills a ring of stages with
// bulk copies: a unit of K of both operands each, as far ahead as the ring is long, also over the end of a tile. One
// block stays on every multiprocessor; with up to 64 rows it leaves room for a block of the next kernel, which can then
// read its first weights while this one ends. Work is shared out as tile_schedule.cuh says. For gated activations rows
// of the matrix come in groups of eight of the gate and eight of its partner, so that a thread holds both: the tensor
// map sees the matrix as [matrices, F / 8, 2, 8, K]. x_rows: each tile takes all rows of x, in their place; whose they
// are is looked up when the tile is finished.
//
// What limits: reading the weights up to some 200 rows, the tensor cores beyond.
#include <cuda.h>
#include <cudaTypedefs.h>

#include <array>
#include <cstddef>

#include "core/check.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/tile_hopper.h"
#include "kernels_cuda/gemm/tile_schedule.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

constexpr int kProductThreads = 256;
constexpr int kThreads = kProductThreads + 32;
[[maybe_unused]] constexpr int kProductWarps = kProductThreads / 32;

template <int kRows>
struct Shape {
  static constexpr int kStages = kRows <= 32 ? 5 : kRows == 64 ? 4 : kRows == 128 ? 6 : 4;
  static constexpr int kWeightBytes = kTileColumns * kUnit * 2;
  static constexpr int kStageBytes = kWeightBytes + kRows * kUnit * 2;
  // Stages are aligned to 1024 bytes; behind them two barriers each, and where rows of x go.
  static constexpr int kSharedBytes = 1024 + kStages * (kStageBytes + 16) + kRows * 4;
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  /// One instruction takes at most 128 rows of x here; more are two.
  static constexpr int kInstructionRows = kRows > 128 ? 128 : kRows;
  static constexpr int kInstructions = kRows / kInstructionRows;
  static constexpr int kSums = kInstructionRows / 2;  // of a thread and an instruction
  static constexpr int kTileElements = kRows * kTileColumns;
#endif
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ void product_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kProductThreads) : "memory");
}

/// Goes through the units that a block computes, in order.
template <int kRows>
class Units {
 public:
  __device__ Units(const TileProduct& product, const Schedule& schedule, int column_tiles)
      : product_(product), schedule_(schedule), column_tiles_(column_tiles) {
    next_piece();
  }

  __device__ bool has_unit() const { return has_unit_; }

  __device__ void advance() {
    if (++unit_ == piece_.end) next_piece();
  }

  __device__ void copy_weights(std::byte* stage, const CUtensorMap& map, Barrier* barrier) const {
    if (product_.activates && product_.rule.gated) {
      constexpr int kGroups = kTileColumns / 16;
      copy_box(stage, map, barrier, unit_ * kUnit, 0, 0, place_.column_tile * kGroups, place_.matrix);
    } else {
      copy_box(stage, map, barrier, unit_ * kUnit, place_.matrix * product_.n + place_.column_tile * kTileColumns);
    }
  }

  __device__ void copy_x(std::byte* stage, const CUtensorMap& map, Barrier* barrier) const {
    copy_box(stage + Shape<kRows>::kWeightBytes, map, barrier, unit_ * kUnit,
             product_.x_rows != nullptr ? 0 : place_.row_begin);
  }

 private:
  __device__ void next_piece() {
    has_unit_ = schedule_.next(piece_);
    if (!has_unit_) return;
    unit_ = piece_.begin;
    place_ = locate<kRows>(product_, piece_.tile, column_tiles_);
  }

  const TileProduct& product_;
  Schedule schedule_;
  int column_tiles_;
  bool has_unit_ = false;
  Piece piece_;
  Place place_;
  int unit_ = 0;
};

/// One thread's sums of a tile.
template <int kRows>
struct Sums {
  float of[Shape<kRows>::kInstructions][Shape<kRows>::kSums];

  __device__ void clear() {
#pragma unroll
    for (int r = 0; r < Shape<kRows>::kInstructions; ++r) {
#pragma unroll
      for (int i = 0; i < Shape<kRows>::kSums; ++i) of[r][i] = 0.0f;
    }
  }

  __device__ void add(const Sums& other) {
#pragma unroll
    for (int r = 0; r < Shape<kRows>::kInstructions; ++r) {
#pragma unroll
      for (int i = 0; i < Shape<kRows>::kSums; ++i) of[r][i] += other.of[r][i];
    }
  }
};

/// Start sums (+)= a stage's weights * its x^T, in ascending order of k.
template <typename T, int kRows>
__device__ void multiply_unit(Sums<kRows>& sums, const std::byte* stage, bool adds) {
  using S = Shape<kRows>;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const uint64_t a = operand(stage + warpgroup * (S::kWeightBytes / 2));
  const uint64_t b = operand(stage + S::kWeightBytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < kUnit / 16; ++step) {
#pragma unroll
    for (int i = 0; i < S::kInstructions; ++i) {
      constexpr int kBytes = S::kInstructionRows * kUnit * 2;
      WarpgroupProduct<T, S::kInstructionRows>::run(sums.of[i], a + step * 2, b + i * (kBytes / 16) + step * 2,
                                                    adds || step > 0);
    }
  }
  commit_products();
}

/// Join the sums of a tile that several blocks share. True in the block that comes last and so has them all.
template <int kRows>
__device__ bool join_parts(const TileProduct& product, const Piece& piece, Sums<kRows>& sums) {
  __shared__ bool is_last;
  using S = Shape<kRows>;
  constexpr int kVectors = S::kTileElements / kProductThreads / 4;
  float4* const first =
      reinterpret_cast<float4*>(product.partials + int64_t{piece.slot} * S::kTileElements) + threadIdx.x;
  float4* const own = first + int64_t{piece.part} * kVectors * kProductThreads;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const float* const values = &sums.of[4 * i / S::kSums][4 * i % S::kSums];
    own[i * kProductThreads] = make_float4(values[0], values[1], values[2], values[3]);
  }
  __threadfence();
  product_barrier();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(&product.counters[piece.counter], 1u) == static_cast<unsigned>(piece.num_parts - 1);
    if (is_last) product.counters[piece.counter] = 0;
  }
  product_barrier();
  if (!is_last) return false;
  __threadfence();
  sums.clear();
  for (int part = 0; part < piece.num_parts; ++part) {
    const float4* const from = first + int64_t{part} * kVectors * kProductThreads;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const float4 more = __ldcg(from + i * kProductThreads);
      float* const values = &sums.of[4 * i / S::kSums][4 * i % S::kSums];
      values[0] += more.x;
      values[1] += more.y;
      values[2] += more.z;
      values[3] += more.w;
    }
  }
  return true;
}

/// `row_of`: shared memory for kRows numbers.
template <typename T, int kRows>
__device__ void store_tile(const TileProduct& product, const Place& place, const Sums<kRows>& sums, int* row_of) {
  using S = Shape<kRows>;
  const int thread = static_cast<int>(threadIdx.x);
  if (product.x_rows != nullptr) {
    for (int i = thread; i < kRows; i += kProductThreads) row_of[i] = -1;
    product_barrier();
    for (int i = thread; i < place.num_rows; i += kProductThreads) {
      row_of[product.x_rows[place.row_begin + i]] = place.row_begin + i;
    }
    product_barrier();
  }
  // Row of the output of a row of the tile; -1: none.
  const auto out_row = [&](int row) -> int64_t {
    if (product.x_rows != nullptr) return row_of[row];
    return row < place.num_rows ? place.row_begin + row : -1;
  };
  const bool gated = product.activates && product.rule.gated;
  const int width = result_width(product);
  const int lane = thread % 32;
  const int warp_columns = gated ? 8 : 16;
  const int first_column = place.column_tile * result_columns(product) + thread / 32 * warp_columns;
  const float* const bias = product.bias == nullptr ? nullptr : product.bias + int64_t{place.matrix} * product.n;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (gated && half == 1) break;
    const int column = first_column + half * 8 + lane / 4;
    float column_bias = 0.0f, other_bias = 0.0f;
    if (bias != nullptr && column < width) {
      column_bias = bias[column];
      if (gated) other_bias = bias[width + column];
    }
#pragma unroll
    for (int r = 0; r < S::kInstructions; ++r) {
#pragma unroll
      for (int j = 0; j < S::kInstructionRows / 8; ++j) {
        const int group = r * S::kInstructionRows + j * 8;
        if (product.x_rows == nullptr && group >= place.num_rows) continue;
        float values[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          values[i] = sums.of[r][j * 4 + half * 2 + i] + column_bias;
          if (product.activates)
            values[i] = activate_roughly(product.rule, values[i], sums.of[r][j * 4 + 2 + i] + other_bias);
        }
        if (product.residual != nullptr || product.out_is_float32) {
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int64_t row = out_row(group + lane % 4 * 2 + i);
            if (row < 0 || column >= width) continue;
            if (product.residual != nullptr) values[i] += product.residual[row * product.residual_stride + column];
            if (product.out_is_float32) static_cast<float*>(product.out)[row * product.out_stride + column] = values[i];
          }
        }
        if (!product.out_is_float32) {
          // From two rows of one column to two columns of one row.
          const uint32_t pair = transpose_pairs(pack_pair<T>(values[0], values[1]));
          const int pair_column = first_column + half * 8 + lane % 4 * 2;
          const int64_t row = out_row(group + lane / 4);
          if (row < 0 || pair_column >= width) continue;
          T* const out = static_cast<T*>(product.out) + row * product.out_stride + pair_column;
          if (pair_column + 1 < width) {
            *reinterpret_cast<uint32_t*>(out) = pair;
          } else {
            *reinterpret_cast<uint16_t*>(out) = static_cast<uint16_t>(pair);
          }
        }
      }
    }
  }
}

template <typename T, int kRows>
__device__ void bring_units(const TileProduct& product, const Schedule& schedule, const CUtensorMap& weights,
                            const CUtensorMap& x, std::byte* stages, Barrier* full, Barrier* free) {
  using S = Shape<kRows>;
  Units<kRows> units(product, schedule, count_column_tiles(product));
  Units<kRows> x_units = units;
  int num_units = 0;
  for (; num_units < S::kStages && units.has_unit(); ++num_units, units.advance()) {
    arrive_and_expect(full + num_units, S::kStageBytes);
    units.copy_weights(stages + num_units * S::kStageBytes, weights, full + num_units);
  }
  wait_for_previous();
  for (int i = 0; i < num_units; ++i, x_units.advance()) x_units.copy_x(stages + i * S::kStageBytes, x, full + i);
  int stage = 0;
  for (int parity = 0; units.has_unit(); units.advance()) {
    wait(free + stage, parity);
    arrive_and_expect(full + stage, S::kStageBytes);
    units.copy_weights(stages + stage * S::kStageBytes, weights, full + stage);
    units.copy_x(stages + stage * S::kStageBytes, x, full + stage);
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

#endif

template <typename T, int kRows, bool kChunked>
__global__ void __launch_bounds__(kThreads, kRows <= 64 ? 2 : 1)
    hopper_tile_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                       const __grid_constant__ TileProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kRows>;
  extern __shared__ std::byte shared[];
  std::byte* const stages = shared + (1024 - shared_address(shared) % 1024) % 1024;
  Barrier* const full = reinterpret_cast<Barrier*>(stages + S::kStages * S::kStageBytes);
  Barrier* const free = full + S::kStages;
  int* const row_of = reinterpret_cast<int*>(free + S::kStages);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      init_barrier(full + i, 1);
      init_barrier(free + i, kProductWarps);
    }
    publish_barriers();
  }
  if (warp == kProductWarps && lane == 0) {
    prefetch_map(weights);
    prefetch_map(x);
  }
  // Row tiles that the kernel before has made are not there yet. The next kernel may take them for old, so it must not
  // start before.
  if (product.row_tiles != nullptr && !product.row_tiles_are_old) wait_for_previous();
  let_next_start();
  const int column_tiles = count_column_tiles(product);
  Schedule schedule(product, count_tiles(product, kRows, column_tiles), (product.k + kUnit - 1) / kUnit, kRows);
  __syncthreads();
  if (warp == kProductWarps) {
    if (lane == 0) bring_units<T, kRows>(product, schedule, weights, x, stages, full, free);
    return;
  }
  wait_for_previous();
  int stage = 0;
  int parity = 0;
  const auto release = [&](int done) {
    if (lane == 0) arrive(free + done);
  };
  const auto sum_units = [&](Sums<kRows>& into, int begin, int end) {
    int previous = 0;  // stage that is still read
    for (int unit = begin; unit < end; ++unit) {
      wait(full + stage, parity);
      multiply_unit<T, kRows>(into, stages + stage * S::kStageBytes, unit > begin);
      if (unit > begin) {
        wait_products<1>();
        release(previous);
      }
      previous = stage;
      if (++stage == S::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wait_products<0>();
    release(previous);
  };
  Piece piece;
  Sums<kRows> sums;
  while (schedule.next(piece)) {
    if constexpr (kChunked) {
      sums.clear();
      for (int begin = piece.begin; begin < piece.end; begin += schedule.chunk_units()) {
        Sums<kRows> chunk;
        sum_units(chunk, begin, min(begin + schedule.chunk_units(), piece.end));
        sums.add(chunk);
      }
    } else {
      sum_units(sums, piece.begin, piece.end);
    }
    if (piece.num_parts > 1 && !join_parts<kRows>(product, piece, sums)) continue;
    store_tile<T, kRows>(product, locate<kRows>(product, piece.tile, column_tiles), sums, row_of);
  }
#endif
}

/// The driver's function, which the runtime library finds for us.
PFN_cuTensorMapEncodeTiled_v12000 map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "looking for cuTensorMapEncodeTiled");
    QUIRE_REQUIRE(function != nullptr, ErrorKind::kDevice,
                  "the CUDA driver has no cuTensorMapEncodeTiled; it is too old");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

/// A tensor of 16-bit elements, sizes from the last dimension on, strides in elements, that is copied in boxes.
template <int kRank>
CUtensorMap make_map(DType dtype, const void* memory, const std::array<int64_t, kRank>& sizes,
                     const std::array<int64_t, kRank - 1>& strides, const std::array<uint32_t, kRank>& box) {
  cuuint64_t dims[kRank];
  cuuint64_t bytes[kRank - 1];
  cuuint32_t steps[kRank];
  for (int i = 0; i < kRank; ++i) {
    dims[i] = static_cast<cuuint64_t>(sizes[i]);
    steps[i] = 1;
    if (i > 0) bytes[i - 1] = static_cast<cuuint64_t>(strides[i - 1]) * 2;
  }
  CUtensorMap map;
  const CUresult result = map_encoder()(
      &map, dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, kRank,
      const_cast<void*>(memory), dims, bytes, box.data(), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  QUIRE_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: ", static_cast<int>(result));
  return map;
}

CUtensorMap weight_map(const TileProduct& product, DType dtype) {
  const int64_t k = product.k;
  const int64_t n = product.n;
  const int64_t matrices = product.num_matrices;
  if (product.activates && product.rule.gated) {
    const int64_t half = n / 2;
    return make_map<5>(dtype, product.weight, {k, 8, 2, half / 8, matrices}, {k, half * k, 8 * k, n * k},
                       {kUnit, 8, 2, kTileColumns / 16, 1});
  }
  return make_map<2>(dtype, product.weight, {k, matrices * n}, {k}, {kUnit, kTileColumns});
}

template <typename T, int kRows, bool kChunked>
void launch_tiles(const TileProduct& product, DType dtype, const GpuStream& stream) {
  using S = Shape<kRows>;
  static const bool prepared = [] {
    allow_shared_memory(hopper_tile_kernel<T, kRows, kChunked>, S::kSharedBytes);
    return true;
  }();
  static_cast<void>(prepared);
  // The stride of a single row may be anything.
  const int64_t stride = product.num_x_rows == 1 ? (int64_t{product.k} + 7) / 8 * 8 : product.x_stride;
  const CUtensorMap x = make_map<2>(dtype, product.x, {product.k, product.num_x_rows}, {stride}, {kUnit, kRows});
  launch("tiles", hopper_tile_kernel<T, kRows, kChunked>,
         dim3(static_cast<unsigned>(stream.device().num_multiprocessors)), dim3(kThreads), S::kSharedBytes, stream,
         weight_map(product, dtype), x, product);
}

template <typename T>
void launch_tiles(const TileProduct& product, DType dtype, int rows_per_tile, const GpuStream& stream) {
  const bool chunked = product.chunks > 1;
  QUIRE_CHECK(!chunked || rows_per_tile == 16 || rows_per_tile == 128, "rows_per_tile=", rows_per_tile);
  switch (rows_per_tile) {
    case 16:
      return chunked ? launch_tiles<T, 16, true>(product, dtype, stream)
                     : launch_tiles<T, 16, false>(product, dtype, stream);
    case 32: return launch_tiles<T, 32, false>(product, dtype, stream);
    case 64: return launch_tiles<T, 64, false>(product, dtype, stream);
    case 128:
      return chunked ? launch_tiles<T, 128, true>(product, dtype, stream)
                     : launch_tiles<T, 128, false>(product, dtype, stream);
    default: return launch_tiles<T, 256, false>(product, dtype, stream);
  }
}

}  // namespace

bool hopper_tiles_fit(const Device& device) {
  return device.compute_capability == 90;
}

void multiply_hopper_tiles(const TileProduct& product, DType dtype, int rows_per_tile, const GpuStream& stream) {
  if (dtype == DType::kBFloat16) return launch_tiles<BFloat>(product, dtype, rows_per_tile, stream);
  return launch_tiles<Half>(product, dtype, rows_per_tile, stream);
}

}  // namespace quire::gpu
