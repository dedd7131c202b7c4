// The products of tile.cuh for at most 64 rows of one matrix, which are a read of its weights: all that counts is that
// every multiprocessor reads the same share of them, asks early, and never stops asking.
//
// Each multiprocessor has one block, which has nearly all of its shared memory: two warpgroups that multiply, and one
// warp that fills a ring of stages with bulk copies. A block begins when its multiprocessor's block of the kernel in
// front ends, and asks for weights until the ring is full; only then it waits for x. The rows of x are the rows of the
// tensor cores' product, 64 whatever they are (sums of rows that are none come from whatever lies behind x, and are
// dropped), and a warpgroup has half of the tile's columns: so tiles can be cut to what gives each multiprocessor one.
// A matrix with fewer columns than that is given to pairs of blocks, a cluster each, that share a tile: each has half
// of K and reads the other's sums out of its shared memory, so that x is not read as often as weights are. For gated
// activations the columns of a tile are eight of the gate and eight of its partner in turn: the tensor map sees the
// matrix as [F / 8, 2, 8, K].
//
// What limits: the read of the weights; at 64 rows of long matrices that of x, from the second-level cache.
#include <cuda.h>

#include <algorithm>
#include <cstddef>
#include <optional>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/operand.cuh"
#include "kernels_cuda/gemm/skinny.h"
#include "kernels_cuda/gemm/tile_maps.h"
#include "kernels_cuda/gemm/tile_schedule.cuh"
#include "kernels_cuda/gemm/tile_store.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

constexpr int kThreads = kProductThreads + 32;
constexpr int kMostColumns = 256;  // of a tile; each has a multiple of 32
constexpr int kMostStages = 16;
/// Of a block. A multiprocessor has 228 KiB: what is left is for blocks of a norm, which must find room beside a
/// product that is there before its time.
constexpr int kMostShared = 220 * 1024;

/// The barriers of a block, in shared memory.
struct Barriers {
  uint64_t full[kMostStages];  ///< a stage holds its step
  uint64_t free[kMostStages];  ///< nobody reads it any more
  uint64_t staged;             ///< both blocks of the pair have left their sums
  uint64_t read;               ///< nobody reads this block's
};

/// A tile's columns, all that code depends on.
template <int kColumns>
struct Shape {
  static constexpr int kUnits = kColumns <= 128 ? 2 : 1;  // of a step of K
  static constexpr int kStep = kUnits * kUnit;
  static constexpr int kWeightBytes = kColumns * kUnit * 2;  // of a unit
  static constexpr int kStride = kColumns + 4;  // floats from row to row of sums: no two rows begin in the same bank
};

/// What the rows of x decide.
struct Ring {
  int box_rows;  ///< of x: 16, 32 or 64
  int stages;
  int stage_bytes;  ///< a step's x, unit by unit, then its weights
};

template <int kColumns>
Ring ring_for(int rows) {
  using S = Shape<kColumns>;
  const int box_rows = rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
  const int stage_bytes = S::kStep * (box_rows + kColumns) * 2;
  // A product reads 64 rows of x, if need be what lies behind them.
  static_assert(kUnit * 2 * 16 + S::kUnits * S::kWeightBytes >= 64 * kUnit * 2);
  // Sums go where the stages were.
  static_assert(kMostSkinnyRows * S::kStride * 4 <= kMostShared / 2);
  constexpr int kAligned = 1024;
  const int room = kMostShared - kAligned - static_cast<int>(sizeof(Barriers));
  return {.box_rows = box_rows, .stages = std::min(kMostStages, room / stage_bytes), .stage_bytes = stage_bytes};
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// sums += a * b^T for 16 of K, b being kCount rows of weights; in pieces that there are instructions for.
template <typename T, int kCount>
__device__ void multiply_step(float* sums, uint64_t a, uint64_t b) {
  constexpr int kPiece = kCount >= 128 ? 128 : kCount >= 64 ? 64 : kCount >= 32 ? 32 : 16;
  WarpgroupProduct<T, kPiece>::run(reinterpret_cast<float(&)[kPiece / 2]>(*sums), a, b);
  constexpr uint64_t kBytes = kPiece * kUnit * 2;
  if constexpr (kCount > kPiece) multiply_step<T, kCount - kPiece>(sums + kPiece / 2, a, b + kBytes / 16);
}

/// Which steps of K a block has, of which tile.
struct Part {
  int tile;
  int begin, end;
};

template <int kColumns>
__device__ Part own_part(const TileProduct& product) {
  const int blocks = blocks_in_cluster();
  const int steps = (product.k + Shape<kColumns>::kStep - 1) / Shape<kColumns>::kStep;
  const int each = (steps + blocks - 1) / blocks;
  const int begin = min(rank_in_cluster() * each, steps);
  return {static_cast<int>(blockIdx.x) / blocks, begin, min(begin + each, steps)};
}

__device__ inline bool is_gated(const TileProduct& product) {
  return product.activates && product.rule.gated;
}

/// What the warp that copies does, by one thread.
template <int kColumns>
__device__ void bring_steps(const TileProduct& product, const Ring& ring, const Part& part, const CUtensorMap& weights,
                            const CUtensorMap& x, std::byte* stages, Barriers* barriers) {
  using S = Shape<kColumns>;
  const uint64_t policy = read_once_policy();
  const int x_bytes = ring.box_rows * kUnit * 2;
  const auto bring_weights = [&](int step, int stage) {
    Barrier* const full = &barriers->full[stage];
    arrive_and_expect(full, ring.stage_bytes);
    std::byte* to = stages + stage * ring.stage_bytes + S::kUnits * x_bytes;
#pragma unroll
    for (int unit = 0; unit < S::kUnits; ++unit, to += S::kWeightBytes) {
      const int k = step * S::kStep + unit * kUnit;
      if (is_gated(product)) {
        copy_box(to, weights, full, k, 0, 0, part.tile * (kColumns / 16), 0, policy);
      } else {
        copy_box(to, weights, full, k, part.tile * kColumns, policy);
      }
    }
  };
  const auto bring_x = [&](int step, int stage) {
#pragma unroll
    for (int unit = 0; unit < S::kUnits; ++unit) {
      copy_box(stages + stage * ring.stage_bytes + unit * x_bytes, x, &barriers->full[stage],
               step * S::kStep + unit * kUnit, 0);
    }
  };
  const int early = min(part.end - part.begin, ring.stages);
  for (int i = 0; i < early; ++i) bring_weights(part.begin + i, i);
  wait_for_previous();
  for (int i = 0; i < early; ++i) bring_x(part.begin + i, i);
  int stage = 0;
  int parity = 0;
  for (int step = part.begin + early; step < part.end; ++step) {
    wait(&barriers->free[stage], parity);
    bring_weights(step, stage);
    bring_x(step, stage);
    if (++stage == ring.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
}

/// This warpgroup's half of the tile's columns, for the block's part of K.
template <typename T, int kColumns>
__device__ void sum_steps(float (&sums)[kColumns / 4], const Ring& ring, const Part& part, const std::byte* stages,
                          Barriers* barriers) {
  using S = Shape<kColumns>;
  const int warpgroup = static_cast<int>(threadIdx.x) / 128;
  const int x_bytes = ring.box_rows * kUnit * 2;
#pragma unroll
  for (float& sum : sums) sum = 0.0f;
  int stage = 0;
  int parity = 0;
  int previous = 0;  // stage that is still read
  const auto release = [&](int done) {
    if (threadIdx.x % 32 == 0) arrive(&barriers->free[done]);
  };
  for (int step = part.begin; step < part.end; ++step) {
    wait(&barriers->full[stage], parity);
    const std::byte* const at = stages + stage * ring.stage_bytes;
    const std::byte* const columns = at + S::kUnits * x_bytes + warpgroup * (S::kWeightBytes / 2);
    hold(sums);  // else the compiler lets products of several pieces wait for each other
    begin_products();
#pragma unroll
    for (int unit = 0; unit < S::kUnits; ++unit) {
      const uint64_t a = operand(at + unit * x_bytes);
      const uint64_t b = operand(columns + unit * S::kWeightBytes);
#pragma unroll
      for (int i = 0; i < kUnit / 16; ++i) multiply_step<T, kColumns / 2>(sums, a + i * 2, b + i * 2);
    }
    commit_products();
    if (step > part.begin) {
      wait_products<1>();
      release(previous);
    }
    previous = stage;
    if (++stage == ring.stages) {
      stage = 0;
      parity ^= 1;
    }
  }
  wait_products<0>();
}

/// Put them into shared memory, row by row.
template <int kColumns>
__device__ void leave_sums(const float (&sums)[kColumns / 4], int rows, float* to) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first_row = warp % 4 * 16;
  if (first_row >= rows) return;
  to += (first_row + lane / 4) * Shape<kColumns>::kStride + warp / 4 * (kColumns / 2) + lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < kColumns / 16; ++j) {
    *reinterpret_cast<float2*>(to + j * 8) = make_float2(sums[4 * j], sums[4 * j + 1]);
    *reinterpret_cast<float2*>(to + j * 8 + 8 * Shape<kColumns>::kStride) =
        make_float2(sums[4 * j + 2], sums[4 * j + 3]);
  }
}

/// Four sums of a row, of this block or, in order, of all blocks of the cluster.
__device__ inline float4 total_of(const float* own, int blocks) {
  if (blocks == 1) return *reinterpret_cast<const float4*>(own);
  float4 total{};
  for (int rank = 0; rank < blocks; ++rank) {
    const float4 more = load_from_cluster(address_in(own, rank));
    total.x += more.x;
    total.y += more.y;
    total.z += more.z;
    total.w += more.w;
  }
  return total;
}

/// Sums become results; blocks of a cluster take rows in turn.
template <typename T, int kColumns>
__device__ void store_results(const TileProduct& product, const Part& part, const float* sums) {
  const int blocks = blocks_in_cluster();
  const int rank = rank_in_cluster();
  const bool gated = is_gated(product);
  const int columns = gated ? kColumns / 2 : kColumns;
  const int width = result_width(product);
  const int pieces = columns / 4;
  const int rows = (product.num_rows - rank + blocks - 1) / blocks;
  for (int i = static_cast<int>(threadIdx.x); i < rows * pieces; i += kProductThreads) {
    const int row = i / pieces * blocks + rank;
    const int column = i % pieces * 4;
    if (part.tile * columns + column >= width) continue;
    const float* const own = sums + row * Shape<kColumns>::kStride + (gated ? column / 8 * 16 + column % 8 : column);
    float4 totals[2]{total_of(own, blocks)};
    if (gated) totals[1] = total_of(own + 8, blocks);
    write_sums<T>(product, 0, row, part.tile * columns + column, width, &totals[0].x, 4);
  }
}

#endif

template <typename T, int kColumns>
__global__ void __launch_bounds__(kThreads, 1)
    skinny_kernel(const __grid_constant__ CUtensorMap weights, const __grid_constant__ CUtensorMap x,
                  const __grid_constant__ TileProduct product, const Ring ring) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  std::byte* const stages = shared + (1024 - shared_address(shared) % 1024) % 1024;
  auto* const barriers = reinterpret_cast<Barriers*>(stages + ring.stages * ring.stage_bytes);
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int blocks = blocks_in_cluster();
  if (threadIdx.x == 0) {
    for (int i = 0; i < ring.stages; ++i) {
      init_barrier(&barriers->full[i], 1);
      init_barrier(&barriers->free[i], kProductWarps);
    }
    init_barrier(&barriers->staged, kProductWarps * blocks);
    init_barrier(&barriers->read, kProductWarps * blocks);
    publish_barriers();
  }
  if (warp == kProductWarps && lane == 0) {
    prefetch_map(weights);
    prefetch_map(x);
  }
  let_next_start();
  __syncthreads();
  if (blocks > 1) cluster_barrier();
  const Part part = own_part<kColumns>(product);
  if (warp == kProductWarps) {
    if (lane == 0) bring_steps<kColumns>(product, ring, part, weights, x, stages, barriers);
    return;
  }
  wait_for_previous();
  float sums[kColumns / 4];
  sum_steps<T, kColumns>(sums, ring, part, stages, barriers);
  product_barrier();  // both warpgroups are done with the stages: sums may lie there
  float* const own = reinterpret_cast<float*>(stages);
  leave_sums<kColumns>(sums, product.num_rows, own);
  if (blocks == 1) {
    product_barrier();
  } else {
    __syncwarp();
    if (lane < blocks) release_to(&barriers->staged, lane);
    wait_for_cluster(&barriers->staged, 0);
  }
  store_results<T, kColumns>(product, part, own);
  if (blocks > 1) {
    // The other block reads this one's sums: it must not find it gone.
    __syncwarp();
    if (lane < blocks) arrive_in(&barriers->read, lane);
    wait_for_cluster(&barriers->read, 0);
  }
#endif
}

template <typename T, int kColumns>
void launch_skinny(const TileProduct& product, DType dtype, int blocks, GpuStream& stream) {
  const auto kernel = skinny_kernel<T, kColumns>;
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, kMostShared); });
  const Ring ring = ring_for<kColumns>(product.num_rows);
  const auto tiles = static_cast<unsigned>((product.n + kColumns - 1) / kColumns);
  check(vendor::launch_clusters(kernel, dim3(tiles * static_cast<unsigned>(blocks)), blocks, dim3(kThreads),
                                kMostShared, stream.handle(), /*early=*/true, weight_map(product, dtype, kColumns),
                                x_map(product, dtype, ring.box_rows), product, ring),
        "skinny product");
}

/// A tile's columns and the blocks that share it.
struct Cut {
  int columns;
  int blocks;
};

template <typename T, int kColumns = 32>
void launch_skinny(const TileProduct& product, DType dtype, const Cut& cut, GpuStream& stream) {
  if (cut.columns == kColumns) return launch_skinny<T, kColumns>(product, dtype, cut.blocks, stream);
  if constexpr (kColumns < kMostColumns) launch_skinny<T, kColumns + 32>(product, dtype, cut, stream);
}

/// The cut of n columns whose blocks have least to read, all running at once; none if too much of the device would have
/// nothing to do, or there are too many columns.
std::optional<Cut> cut_of(int64_t n, const Device& device) {
  constexpr int kMostBlocks = 2;           // that share a tile: with four there is more to exchange than x saves
  constexpr int kMostSharedColumns = 128;  // of more a block makes enough of x
  constexpr double kLeastUse = 0.5;
  const int64_t multiprocessors = device.num_multiprocessors;
  std::optional<Cut> best;
  for (int blocks = kMostBlocks; blocks >= 1; --blocks) {
    const int64_t tiles = multiprocessors / blocks;
    const int64_t columns = ((n + tiles - 1) / tiles + 31) / 32 * 32;
    if (columns > (blocks == 1 ? kMostColumns : kMostSharedColumns)) continue;
    if (best && columns * best->blocks >= int64_t{best->columns} * blocks) continue;
    best = Cut{static_cast<int>(columns), blocks};
  }
  if (!best) return best;
  const double use = static_cast<double>(n * best->blocks) / static_cast<double>(best->columns * multiprocessors);
  return use >= kLeastUse ? best : std::nullopt;
}

}  // namespace

bool skinny_fits(int64_t rows, int64_t n, const GpuStream& stream) {
  return stream.device().compute_capability == 90 && !stream.resources().deterministic && rows <= kMostSkinnyRows &&
         cut_of(n, stream.device());
}

void multiply_skinny(const TileProduct& product, DType dtype, GpuStream& stream) {
  const Cut cut = *cut_of(product.n, stream.device());
  if (dtype == DType::kBFloat16) return launch_skinny<BFloat>(product, dtype, cut, stream);
  return launch_skinny<Half>(product, dtype, cut, stream);
}

}  // namespace quire::gpu
