// What the kernel of a chain of products of several rows computes, as data.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "kernels_cuda/gemm/row_product.h"

namespace quire::gpu {

/// A product, and how it is cut: tiles of some rows of the matrix, each of which one block computes, or several, with a
/// part of K each.
struct RowsLink {
  RowProduct product;  ///< with a norm: x is what is normed
  void* normed;        ///< where that goes; the product's rows of x
  int64_t normed_stride;
  float* parts;  ///< [splits, tokens, units] with several splits: sums of parts of K
  int32_t tiles;
  int16_t splits;  ///< 1 or kRowsSplits
  /// In front of it there is something to do row by row: its norm, or adding up the sums of the link before.
  bool begins_with_rows;
  int16_t columns;  ///< rows of the matrix of a tile, a multiple of 32; gated: half of them are gates
};

/// What the copy engine has to know: of the matrix, in boxes of units of K of a tile's rows, as many units as a stage
/// holds, and of x, of all its rows.
struct RowsMaps {
  CUtensorMap weights, x;
};

constexpr int kMostRowsLinks = 8;
/// Parts of K, if there are several.
constexpr int kRowsSplits = 4;
constexpr int kMostRows = 64;  ///< as many as the tensor cores multiply in any case
constexpr int kMostRowsColumns = 224;

struct RowsProgram {
  RowsMaps maps[kMostRowsLinks];
  RowsLink links[kMostRowsLinks];
  int32_t num_links = 0;
  int32_t num_phases = 0;        ///< products, and what is done row by row
  int32_t weight_stages = 0;     ///< of the ring that weights come through
  int32_t box_rows = 0;          ///< of x, that are copied: 8, 16, 32 or 64
  unsigned* arrivals = nullptr;  ///< [2] of blocks behind phases, ever; and those before this program
};

static_assert(sizeof(RowsProgram) <= 4096, "parameters of a kernel, with older toolkits");

// Shared memory of a block, and how much of it goes to what.

constexpr int kRowsUnit = 64;  ///< of K
__host__ __device__ constexpr int rows_unit_bytes(int rows) {
  return rows * kRowsUnit * 2;
}

constexpr int kRowsWeightStage = 32 * 1024;
constexpr int kMostWeightStages = 6;
/// Stages of weights that are on their way at a time. What all blocks wait for comes by the same ways, and behind what
/// was asked for before.
constexpr int kMostWeightsArriving = 3;

constexpr int kXStages = 4;  ///< of the ring for x
/// And of K in each.
__host__ __device__ constexpr int rows_x_units(int box_rows) {
  return box_rows <= 16 ? 4 : 64 / box_rows;
}
__host__ __device__ constexpr int rows_x_stage(int box_rows) {
  return rows_x_units(box_rows) * rows_unit_bytes(box_rows);
}
/// The products read all rows of a unit, however few are there.
__host__ __device__ constexpr int rows_x_bytes(int box_rows) {
  return kXStages * rows_x_stage(box_rows) + rows_unit_bytes(kMostRows - box_rows);
}

/// Rows of a tile whose sums wait in shared memory at a time: those of a warp's products.
constexpr int kStagedRows = 16;
/// From row to row: eight rows begin in different banks.
constexpr int kTileSumStride = kMostRowsColumns + 8;
__host__ __device__ constexpr int rows_tile_sums(int box_rows) {
  return (box_rows < kStagedRows ? box_rows : kStagedRows) * kTileSumStride;
}
constexpr int kNormSums = 2 * kRowWarps;

inline size_t rows_shared_bytes(int weight_stages, int box_rows, int num_links) {
  constexpr size_t kAlignment = 1024;
  constexpr size_t kSignals = 2 * (kMostWeightStages + kXStages) * 8;
  return kAlignment + static_cast<size_t>(weight_stages) * kRowsWeightStage +
         static_cast<size_t>(rows_x_bytes(box_rows)) +
         static_cast<size_t>(rows_tile_sums(box_rows) + kNormSums) * sizeof(float) + kSignals +
         static_cast<size_t>(num_links) * sizeof(RowsLink);
}

/// Launch the kernel, a block on each multiprocessor.
void run_rows_program(const RowsProgram& program, DType dtype, GpuStream& stream);

}  // namespace quire::gpu
