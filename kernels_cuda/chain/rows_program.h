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
  float* parts;        ///< [splits, tokens, units] with several splits: sums of parts of K
  int32_t tiles;
  int16_t splits;      ///< 1 or kRowsSplits
  /// In front of it there is something to do row by row: its norm, or adding up the sums of the link before.
  bool begins_with_rows;
  int16_t columns;  ///< rows of the matrix of a tile, a multiple of 32; gated: half of them are gates
};

/// What the copy engine has to know: of the matrix, in boxes of 64 columns of a tile's rows, and of x, of all its rows.
struct RowsMaps {
  CUtensorMap weights, x;
};

constexpr int kMostRowsLinks = 8;
/// Parts of K, if there are several.
constexpr int kRowsSplits = 4;
constexpr int kMostRows = 64;
constexpr int kMostRowsColumns = 224;

struct RowsProgram {
  RowsMaps maps[kMostRowsLinks];
  RowsLink links[kMostRowsLinks];
  int32_t num_links = 0;
  int32_t num_phases = 0;        ///< products, and what is done row by row
  int32_t box_rows = 0;          ///< of x in a stage, the number of tokens rounded up to 8
  int32_t weight_stages = 0;     ///< of the ring that weights come through
  int32_t x_stages = 0;          ///< of that for x
  unsigned* arrivals = nullptr;  ///< [2] of blocks behind phases, ever; and those before this program
};

// Shared memory of a block, and how much of it goes to what.

constexpr int kRowsUnit = 64;  ///< of K
constexpr int kRowsWeightStage = 32 * 1024;
constexpr int kXUnits = 2;  ///< of K, of a stage of x
constexpr int kMostWeightStages = 8, kMostXStages = 16;
constexpr int kMostXBytes = 64 * 1024;            ///< of the ring, and of what is read behind its end
constexpr int kRowsSumBytes = 2 * kRowWarps * 4;  ///< of the norm
constexpr int kRowsSignalBytes = (2 * (kMostWeightStages + kMostXStages) + 1) * 8;

/// Stages of weights that are on their way at a time. What all blocks wait for comes by the same ways, and behind what
/// was asked for before.
constexpr int kMostWeightsArriving = 3;

__host__ __device__ constexpr int rows_unit_bytes(int rows) {
  return rows * kRowsUnit * 2;
}
/// The products read kMostRows rows of a stage, however few are there. And where x was, a tile's sums wait.
__host__ __device__ constexpr int rows_x_bytes(int stages, int box_rows) {
  const int ring = stages * kXUnits * rows_unit_bytes(box_rows) + rows_unit_bytes(kMostRows - box_rows);
  const int sums = (kMostRows + box_rows) * (kMostRowsColumns / 2 + 8) * 4;
  return ring > sums ? ring : sums;
}
inline size_t rows_shared_bytes(const RowsProgram& program) {
  constexpr size_t kAlignment = 1024;
  return kAlignment + static_cast<size_t>(program.weight_stages) * kRowsWeightStage +
         static_cast<size_t>(rows_x_bytes(program.x_stages, program.box_rows)) + kRowsSumBytes + kRowsSignalBytes +
         static_cast<size_t>(program.num_links) * sizeof(RowsLink);
}

/// Launch the kernel, a block on each multiprocessor.
void run_rows_program(const RowsProgram& program, DType dtype, const GpuStream& stream);

}  // namespace quire::gpu
