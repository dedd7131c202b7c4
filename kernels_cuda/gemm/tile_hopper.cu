// The products of tile.cuh with warpgroup instructions. Sides are swapped: 128 rows of the matrix (gated: 64 and their
// partners) are the rows of the tensor cores' product, 16 to 256 rows of x its columns, so that few rows waste little.
//
// A block is two warpgroups that multiply, 64 rows of the matrix each, and one warp that fills a ring of stages with
// bulk copies: a unit of K of both operands each, as far ahead as the ring is long, also over the end of a tile. Blocks
// form clusters, which take tiles in turn. Either both blocks of a cluster share the rows of x, of which each brings
// half to both, and have tiles side by side; or, where there are too few tiles, the blocks of a cluster each sum a part
// of K and read the others' sums, in order, out of their shared memory. For gated activations rows of the matrix come
// in groups of eight of the gate and eight of its partner, so that a thread holds both: the tensor map sees the matrix
// as [matrices, F / 8, 2, 8, K]. x_rows: each tile takes all rows of x; whose they are is looked up when it is
// finished.
//
// What limits: reading the weights up to some 200 rows, the tensor cores beyond.
#include <cuda.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>

#include "core/check.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/operand.cuh"
#include "kernels_cuda/gemm/tile_hopper.h"
#include "kernels_cuda/gemm/tile_maps.h"
#include "kernels_cuda/gemm/tile_schedule.cuh"
#include "kernels_cuda/gemm/tile_store.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

/// How the blocks of a cluster work together.
enum class Together {
  kShareRows,  ///< two blocks, tiles side by side, the same rows of x
  kShareSums   ///< one tile, of whose K each block has a part; one block or several
};

constexpr int kMostBlocks = 8;  // of a cluster, on any device that has clusters

template <int kRows>
struct Shape {
  static constexpr int kStages = kRows <= 32 ? 5 : kRows == 64 ? 4 : kRows == 128 ? 6 : 4;
  static constexpr int kWeightBytes = kTileColumns * kUnit * 2;
  static constexpr int kStageBytes = kWeightBytes + kRows * kUnit * 2;
  static constexpr int kStagedRows = kRows <= 64 ? 16 : 32;               // results leave as many at once
  static constexpr int kStagingBytes = kStagedRows * kStagedFloatStride;  // of a warpgroup
  static constexpr int kBlocksPerMultiprocessor = kRows <= 64 ? 2 : 1;
  // Registers are given and taken by whole warpgroups: one for the warp that copies.
  static constexpr bool kTradesRegisters = kRows == 256;
  static constexpr int kThreads = kProductThreads + (kTradesRegisters ? 128 : 32);
  // Stages are aligned to 1024 bytes; behind them results on their way out, barriers, and where rows of x go.
  static constexpr int kBarrierBytes = (2 * kStages + 2) * 8;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + 2 * kStagingBytes + kBarrierBytes + kRows * 4;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// The barriers of a block, in shared memory.
template <int kRows>
struct Barriers {
  static constexpr int kStages = Shape<kRows>::kStages;
  Barrier full[kStages];  ///< a stage holds its unit
  Barrier free[kStages];  ///< nobody reads it any more
  Barrier staged;         ///< all blocks of the cluster have left their sums of a tile
  Barrier drained;        ///< nobody reads this block's
};

/// What a block computes: tile after tile, of each the units from begin to end.
template <int kRows, Together kTogether>
class Work {
 public:
  __device__ explicit Work(const TileProduct& product)
      : product_(product),
        rank_(rank_in_cluster()),
        cluster_(blocks_in_cluster()),
        columns_at_once_(kTogether == Together::kShareRows ? cluster_ : 1),
        column_groups_((count_column_tiles(product) + columns_at_once_ - 1) / columns_at_once_),
        num_tiles_(count_tiles(product, kRows, column_groups_)),
        tile_(static_cast<int>(blockIdx.x) / cluster_) {
    const int units = (product.k + kUnit - 1) / kUnit;
    const int parts = kTogether == Together::kShareRows ? 1 : cluster_;
    const int per_part = (units + parts - 1) / parts;
    begin_ = kTogether == Together::kShareRows ? 0 : min(rank_ * per_part, units);
    end_ = min(begin_ + per_part, units);
  }

  __device__ bool has_tile() const { return tile_ < num_tiles_; }
  __device__ void next_tile() { tile_ += static_cast<int>(gridDim.x) / cluster_; }
  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }
  __device__ int rank() const { return rank_; }
  __device__ int cluster() const { return cluster_; }
  __device__ bool shares_sums() const { return kTogether == Together::kShareSums && cluster_ > 1; }

  /// Of the tile. With shared rows it may lie behind the last column.
  __device__ Place place() const {
    Place place = locate<kRows>(product_, tile_, column_groups_);
    if (kTogether == Together::kShareRows) place.column_tile = place.column_tile * cluster_ + rank_;
    return place;
  }

 private:
  const TileProduct& product_;
  int rank_, cluster_;
  int columns_at_once_, column_groups_;
  int num_tiles_, tile_;
  int begin_, end_;
};

/// Start sums += a stage's weights * its x^T, in ascending order of k.
template <typename T, int kRows>
__device__ void multiply_unit(Sums<kRows>& sums, const std::byte* stage) {
  using S = Shape<kRows>;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const uint64_t a = operand(stage + warpgroup * (S::kWeightBytes / 2));
  const uint64_t b = operand(stage + S::kWeightBytes);
  begin_products();
#pragma unroll
  for (int step = 0; step < kUnit / 16; ++step) {
    WarpgroupProduct<T, kRows>::run(sums.of, a + step * 2, b + step * 2);
  }
  commit_products();
}

/// Put those of a tile's rows into shared memory that begin with row `first`: registers have no index, so each such
/// part is code of its own.
template <typename T, int kRows, int kFirst = 0>
__device__ void stage_part(const Sums<kRows>& sums, int first, const Columns& columns, bool gated, bool as_sums) {
  constexpr int kCount = Shape<kRows>::kStagedRows;
  if (first == kFirst) stage_rows<T, kCount>(&sums.of[kFirst / 2], columns, gated, as_sums);
  if constexpr (kFirst + kCount < kRows) stage_part<T, kRows, kFirst + kCount>(sums, first, columns, gated, as_sums);
}

/// A tile whose sums this block has.
template <typename T, int kRows>
__device__ void store_tile(const TileProduct& product, const Place& place, const Columns& columns,
                           const Sums<kRows>& sums, const int* row_of) {
  constexpr int kCount = Shape<kRows>::kStagedRows;
  const bool gated = product.activates && product.rule.gated;
#pragma unroll 1
  for (int first = 0; first < kRows; first += kCount) {
    if (product.x_rows == nullptr && first >= place.num_rows) return;
    store_rows<T, kCount>(product, place, columns, first, row_of,
                          [&](bool as_sums) { stage_part<T, kRows>(sums, first, columns, gated, as_sums); });
  }
}

/// A tile of which the blocks of the cluster have parts of the sums. They leave them where the stages were, and each
/// adds up and stores some of the rows.
template <typename T, int kRows, Together kTogether>
__device__ void join_tile(const TileProduct& product, const Place& place, const Columns& columns,
                          const Sums<kRows>& sums, const Work<kRows, kTogether>& work, int parity, std::byte* stages,
                          Barriers<kRows>* barriers, const int* row_of) {
  static_assert(kRows * kTileColumns * 4 <= Shape<kRows>::kStages * Shape<kRows>::kStageBytes);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  wait_for_cluster(&barriers->drained, parity ^ 1);  // at the first tile passed at once
  product_barrier();                                 // both warpgroups are done with the stages
  float4* const own = reinterpret_cast<float4*>(stages) + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kRows / 8; ++j) {
    own[j * kProductThreads] = make_float4(sums.of[4 * j], sums.of[4 * j + 1], sums.of[4 * j + 2], sums.of[4 * j + 3]);
  }
  fence_for_copies();
  __syncwarp();
  if (lane < work.cluster()) release_to(&barriers->staged, lane);
  wait_for_cluster(&barriers->staged, parity);
  constexpr int kCount = Shape<kRows>::kStagedRows;
  for (int first = work.rank() * kCount; first < kRows; first += work.cluster() * kCount) {
    if (product.x_rows == nullptr && first >= place.num_rows) break;
    Sums<kCount> total;
    total.clear();
    for (int rank = 0; rank < work.cluster(); ++rank) {
      const uint32_t from = address_in(own + first / 8 * kProductThreads, rank);
#pragma unroll
      for (int j = 0; j < kCount / 8; ++j) {
        const float4 more = load_from_cluster(from + j * kProductThreads * 16);
        total.of[4 * j] += more.x;
        total.of[4 * j + 1] += more.y;
        total.of[4 * j + 2] += more.z;
        total.of[4 * j + 3] += more.w;
      }
    }
    store_rows<T, kCount>(product, place, columns, first, row_of, [&](bool as_sums) {
      stage_rows<T, kCount>(total.of, columns, product.activates && product.rule.gated, as_sums);
    });
  }
  __syncwarp();
  if (lane < work.cluster()) arrive_in(&barriers->drained, lane);
}

/// Which row of the output the rows of x have in a tile; -1: none. `row_of`: shared memory for kRows numbers.
template <int kRows>
__device__ void find_rows(const TileProduct& product, const Place& place, int* row_of) {
  const int thread = static_cast<int>(threadIdx.x);
  product_barrier();
  for (int i = thread; i < kRows; i += kProductThreads) row_of[i] = -1;
  product_barrier();
  for (int i = thread; i < place.num_rows; i += kProductThreads) {
    row_of[product.x_rows[place.row_begin + i]] = place.row_begin + i;
  }
  product_barrier();
}

/// Goes through the units that a block needs, in order, and asks for them.
template <int kRows, Together kTogether>
class Units {
 public:
  using S = Shape<kRows>;

  __device__ Units(const TileProduct& product, const Work<kRows, kTogether>& work)
      : product_(product), work_(work), policy_(read_once_policy()) {
    enter_tile();
  }

  __device__ bool has_unit() const { return has_unit_; }

  /// Whether the next unit is of another tile than the last one was.
  __device__ bool begins_tile() const { return unit_ == work_.begin(); }

  __device__ void advance() {
    if (++unit_ < work_.end()) return;
    work_.next_tile();
    enter_tile();
  }

  __device__ void copy_weights(std::byte* stage, const CUtensorMap& map, Barrier* barrier) const {
    const auto copy = [&](auto... begin) {
      // Tiles are as low where hardly any other reads the same weights.
      if constexpr (kRows <= 64) {
        copy_box(stage, map, barrier, begin..., policy_);
      } else {
        copy_box(stage, map, barrier, begin...);
      }
    };
    if (product_.activates && product_.rule.gated) {
      constexpr int kGroups = kTileColumns / 16;
      copy(unit_ * kUnit, 0, 0, place_.column_tile * kGroups, place_.matrix);
    } else {
      copy(unit_ * kUnit, place_.matrix * product_.n + place_.column_tile * kTileColumns);
    }
  }

  __device__ void copy_x(std::byte* stage, const CUtensorMap& map, Barrier* barrier) const {
    const int first_row = product_.x_rows != nullptr ? 0 : place_.row_begin;
    if constexpr (kTogether == Together::kShareRows) {
      constexpr int kHalf = kRows / 2;
      const int part = work_.rank() * kHalf;
      copy_box_to(0b11, stage + S::kWeightBytes + part * kUnit * 2, map, barrier, unit_ * kUnit, first_row + part);
    } else {
      copy_box(stage + S::kWeightBytes, map, barrier, unit_ * kUnit, first_row);
    }
  }

 private:
  __device__ void enter_tile() {
    unit_ = work_.begin();
    has_unit_ = work_.has_tile() && work_.begin() < work_.end();
    if (has_unit_) place_ = work_.place();
  }

  const TileProduct& product_;
  Work<kRows, kTogether> work_;
  uint64_t policy_;
  Place place_;
  int unit_;
  bool has_unit_;
};

/// What the warp that copies does, by one thread.
template <int kRows, Together kTogether>
__device__ void bring_units(const TileProduct& product, const Work<kRows, kTogether>& work, const CUtensorMap& weights,
                            const CUtensorMap& x, std::byte* stages, Barriers<kRows>* barriers) {
  using S = Shape<kRows>;
  Units<kRows, kTogether> units(product, work);
  Units<kRows, kTogether> x_units = units;
  int num_units = 0;
  for (; num_units < S::kStages && units.has_unit(); ++num_units, units.advance()) {
    // Where sums are shared, the stages are lent to them behind a tile.
    if (work.shares_sums() && num_units > 0 && units.begins_tile()) break;
    Barrier* const full = &barriers->full[num_units];
    arrive_and_expect(full, S::kStageBytes);
    units.copy_weights(stages + num_units * S::kStageBytes, weights, full);
  }
  wait_for_previous();
  for (int i = 0; i < num_units; ++i, x_units.advance()) {
    x_units.copy_x(stages + i * S::kStageBytes, x, &barriers->full[i]);
  }
  int stage = num_units % S::kStages;
  int parity = num_units < S::kStages ? 1 : 0;  // the first time round nothing has to be waited for
  int tile_parity = 0;
  for (; units.has_unit(); units.advance()) {
    if (work.shares_sums() && units.begins_tile()) {
      wait_for_cluster(&barriers->drained, tile_parity);
      tile_parity ^= 1;
    }
    Barrier* const full = &barriers->full[stage];
    wait(&barriers->free[stage], parity);
    arrive_and_expect(full, S::kStageBytes);
    units.copy_weights(stages + stage * S::kStageBytes, weights, full);
    units.copy_x(stages + stage * S::kStageBytes, x, full);
    if (++stage == S::kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  if constexpr (kTogether == Together::kShareRows) {
    // The other block tells this one what it has read: it must not find it gone.
    for (int i = 0; i < S::kStages; ++i) {
      wait(&barriers->free[stage], parity);
      if (++stage == S::kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

/// What the warpgroups that multiply do.
template <typename T, int kRows, Together kTogether, bool kChunked>
__device__ void compute_tiles(const TileProduct& product, Work<kRows, kTogether>& work, std::byte* stages,
                              Barriers<kRows>* barriers, int* row_of) {
  using S = Shape<kRows>;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  std::byte* const staging = stages + S::kStages * S::kStageBytes;
  wait_for_previous();
  int stage = 0;
  int parity = 0;
  const auto release = [&](int done) {
    if constexpr (kTogether == Together::kShareRows) {
      if (lane < 2) arrive_in(&barriers->free[done], lane);
    } else {
      if (lane == 0) arrive(&barriers->free[done]);
    }
  };
  const auto sum_units = [&](Sums<kRows>& into, int begin, int end) {
    int previous = 0;  // stage that is still read
    for (int unit = begin; unit < end; ++unit) {
      wait(&barriers->full[stage], parity);
      multiply_unit<T, kRows>(into, stages + stage * S::kStageBytes);
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
    if (begin < end) release(previous);
  };
  Sums<kRows> sums;
  int tile_parity = 0;
  for (; work.has_tile(); work.next_tile()) {
    sums.clear();
    if constexpr (kChunked) {
      const int chunk_units = (work.end() + product.chunks - 1) / product.chunks;
      for (int begin = 0; begin < work.end(); begin += chunk_units) {
        Sums<kRows> chunk;
        chunk.clear();
        sum_units(chunk, begin, min(begin + chunk_units, work.end()));
        sums.add(chunk);
      }
    } else {
      sum_units(sums, work.begin(), work.end());
    }
    const Place place = work.place();
    if (product.x_rows != nullptr) find_rows<kRows>(product, place, row_of);
    const Columns columns = own_columns(product, place, staging, S::kStagingBytes);
    if constexpr (kTogether == Together::kShareSums) {
      if (work.shares_sums()) {
        join_tile<T>(product, place, columns, sums, work, tile_parity, stages, barriers, row_of);
        tile_parity ^= 1;
        continue;
      }
    }
    store_tile<T>(product, place, columns, sums, row_of);
  }
  // Others read this block's sums and tell it so: they must not find it gone.
  if (work.shares_sums()) wait_for_cluster(&barriers->drained, tile_parity ^ 1);
}

#endif

template <typename T, int kRows, Together kTogether, bool kChunked>
__global__ void __launch_bounds__(Shape<kRows>::kThreads, Shape<kRows>::kBlocksPerMultiprocessor)
    hopper_tile_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                       const __grid_constant__ TileProduct product) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kRows>;
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  std::byte* const stages = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* const barriers =
      reinterpret_cast<Barriers<kRows>*>(stages + S::kStages * S::kStageBytes + 2 * S::kStagingBytes);
  static_assert(sizeof(Barriers<kRows>) == S::kBarrierBytes);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int cluster = blocks_in_cluster();
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStages; ++i) {
      init_barrier(&barriers->full[i], 1);
      init_barrier(&barriers->free[i], kProductWarps * (kTogether == Together::kShareRows ? 2 : 1));
    }
    init_barrier(&barriers->staged, kProductWarps * cluster);
    init_barrier(&barriers->drained, kProductWarps * cluster);
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
  Work<kRows, kTogether> work(product);
  __syncthreads();
  if (cluster > 1) cluster_barrier();
  if (warp < kProductWarps) {
    if constexpr (S::kTradesRegisters) take_registers<232>();
    compute_tiles<T, kRows, kTogether, kChunked>(product, work, stages, barriers, reinterpret_cast<int*>(barriers + 1));
  } else {
    if constexpr (S::kTradesRegisters) give_registers<40>();
    if (warp == kProductWarps && lane == 0) bring_units(product, work, weights, x, stages, barriers);
  }
#endif
}

/// The kernel, made ready at its first use on a device.
template <typename T, int kRows, Together kTogether, bool kChunked>
auto kernel_of() {
  const auto kernel = hopper_tile_kernel<T, kRows, kTogether, kChunked>;
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, Shape<kRows>::kSharedBytes); });
  return kernel;
}

/// Clusters of that many blocks that the device holds at a time.
template <typename T, int kRows, Together kTogether>
int clusters_at_once(int cluster) {
  static PerDevice<std::array<std::atomic<int>, kMostBlocks + 1>> known;
  std::atomic<int>& count = known.here()[static_cast<size_t>(cluster)];
  if (count == 0) {
    int clusters = 0;
    check(vendor::most_clusters(&clusters, kernel_of<T, kRows, kTogether, false>(), cluster,
                                dim3(Shape<kRows>::kThreads), Shape<kRows>::kSharedBytes),
          "tiles");
    count = std::max(clusters, 1);
  }
  return count;
}

template <typename T, int kRows, Together kTogether, bool kChunked = false>
void launch_tiles(const TileProduct& product, DType dtype, int cluster, GpuStream& stream) {
  using S = Shape<kRows>;
  const CUtensorMap weights = weight_map(product, dtype, kTileColumns);
  const CUtensorMap x = x_map(product, dtype, kTogether == Together::kShareRows ? kRows / 2 : kRows);
  int clusters = clusters_at_once<T, kRows, kTogether>(cluster);
  if (product.row_tiles == nullptr) {
    const int tiles_at_once = kTogether == Together::kShareRows ? cluster : 1;
    const int column_groups = (count_column_tiles(product) + tiles_at_once - 1) / tiles_at_once;
    clusters = std::min(clusters, (product.num_rows + kRows - 1) / kRows * column_groups);
  }
  check(vendor::launch_clusters(kernel_of<T, kRows, kTogether, kChunked>(),
                                dim3(static_cast<unsigned>(clusters * cluster)), cluster, dim3(S::kThreads),
                                S::kSharedBytes, stream.handle(), /*early=*/true, weights, x, product),
        "tiles");
}

/// Blocks that share the sums of a tile: as many as let all `tiles` run at once.
template <typename T, int kRows>
int blocks_for_sums(const TileProduct& product, int64_t tiles) {
  const int units = (product.k + kUnit - 1) / kUnit;
  int blocks = std::clamp(units / kLeastUnits, 1, kMostBlocks);
  while (blocks > 1 && clusters_at_once<T, kRows, Together::kShareSums>(blocks) < tiles) --blocks;
  return blocks;
}

template <typename T, int kRows>
void launch_tiles(const TileProduct& product, DType dtype, GpuStream& stream) {
  const int64_t row_tiles =
      product.row_tiles != nullptr ? product.likely_row_tiles : (product.num_rows + kRows - 1) / kRows;
  const int64_t tiles = std::max<int64_t>(row_tiles, 1) * count_column_tiles(product);
  if (product.deterministic) {
    // Chunks are a power of two, of which the last may have nothing to do.
    const int chunks = static_cast<int>(std::bit_ceil(static_cast<unsigned>(product.chunks)));
    const bool one_by_one = chunks > 1 && clusters_at_once<T, kRows, Together::kShareSums>(chunks) < tiles;
    if constexpr (kRows == 16 || kRows == 128) {
      if (one_by_one) return launch_tiles<T, kRows, Together::kShareSums, true>(product, dtype, 1, stream);
    }
    QUIRE_CHECK(!one_by_one, "rows_per_tile=", kRows);
    return launch_tiles<T, kRows, Together::kShareSums>(product, dtype, chunks, stream);
  }
  const int blocks = blocks_for_sums<T, kRows>(product, tiles);
  if constexpr (kRows >= 128) {
    if (blocks == 1) return launch_tiles<T, kRows, Together::kShareRows>(product, dtype, 2, stream);
  }
  launch_tiles<T, kRows, Together::kShareSums>(product, dtype, blocks, stream);
}

template <typename T>
void launch_tiles(const TileProduct& product, DType dtype, int rows_per_tile, GpuStream& stream) {
  switch (rows_per_tile) {
    case 16: return launch_tiles<T, 16>(product, dtype, stream);
    case 32: return launch_tiles<T, 32>(product, dtype, stream);
    case 64: return launch_tiles<T, 64>(product, dtype, stream);
    case 128: return launch_tiles<T, 128>(product, dtype, stream);
    default: return launch_tiles<T, 256, Together::kShareRows>(product, dtype, 2, stream);
  }
}

}  // namespace

bool hopper_tiles_fit(const Device& device) {
  return device.compute_capability == 90;
}

void multiply_hopper_tiles(const TileProduct& product, DType dtype, int rows_per_tile, GpuStream& stream) {
  if (dtype == DType::kBFloat16) return launch_tiles<BFloat>(product, dtype, rows_per_tile, stream);
  return launch_tiles<Half>(product, dtype, rows_per_tile, stream);
}

}  // namespace quire::gpu
