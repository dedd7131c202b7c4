#pragma once

#include <cstdint>

#include "backend/ops/activation.h"
#include "core/dtype.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// Rows that are multiplied with the same matrix by one block. Row tiles of one matrix that follow each other form
/// batches: the blocks that run at a time take all tiles of a batch with the same columns of the matrix, so that these
/// are read once.
struct alignas(16) RowTile {
  int32_t matrix;
  int32_t row_begin;
  int32_t num_rows;
  int32_t batch_begin;  ///< index of the batch's first row tile
  int32_t batch_size;
};
constexpr int kTilesPerBatch = 16;

/// K goes by in pieces of so many elements, a line of memory of each row.
constexpr int kUnit = 64;

/// Columns of a tile: output features, or half as many pairs of gate and up.
constexpr int kTileColumns = 128;

/// Products out[r] = act(matrix * x[row of r] + bias) (+ residual[r]) of rows with one or several matrices. Memory is
/// aligned to 16 bytes, as are rows; k is a multiple of 8.
struct TileProduct {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int64_t num_x_rows = 0;
  /// Which row of x a row takes, [rows]; null: its own. On compute capability 9.0 only if x has no more rows than a
  /// tile.
  const int32_t* x_rows = nullptr;
  const void* weight = nullptr;  ///< [matrices, n, k]
  int32_t num_matrices = 1;
  int32_t n = 0;
  int32_t k = 0;
  int32_t num_rows = 0;                ///< if there are no row_tiles
  const RowTile* row_tiles = nullptr;  ///< in device memory, as is their number; null: rows of the one matrix
  const int32_t* num_row_tiles = nullptr;
  int32_t likely_row_tiles = 0;     ///< how many there will be, or so
  bool row_tiles_are_old = false;   ///< not made by the kernel before: can be read before the wait
  const float* bias = nullptr;      ///< [matrices, n]
  const float* residual = nullptr;  ///< [rows, n], may be out
  int64_t residual_stride = 0;
  void* out = nullptr;  ///< [rows, n] or, if an activation is applied, [rows, ffn width]
  int64_t out_stride = 0;
  bool out_is_float32 = false;  ///< else the type of x
  bool activates = false;       ///< no residual then
  ActivationRule rule;          ///< gated: the gate's rows of a matrix are its first half

  /// Set by multiply_tiles().
  bool deterministic = false;
  int32_t chunks = 1;         ///< pieces of K, each summed by itself; then their sums in order
  float* partials = nullptr;  ///< sums of a part of K, a tile each
  int32_t max_partials = 0;
  unsigned* counters = nullptr;
  int32_t max_counters = 0;
};

/// Whether the device has what multiply_tiles() needs.
bool tiles_fit(const Device& device);

/// Compute `product` with tiles of `rows_per_tile` rows: 16, 32, 64, 128 or, on
/// compute capability 9.0, 256. `dtype`: of x and weight, 16 bits.
/// `least_row_tiles`: there are hardly ever fewer. It sets how a deterministic stream cuts K, so it must not depend on
/// the number of rows.
void multiply_tiles(TileProduct product, DType dtype, int rows_per_tile, int32_t least_row_tiles, GpuStream& stream);

/// The height of tiles for matrices that have `rows` rows each, or so.
int tile_rows_for(int64_t rows, const TileProduct& product, const GpuStream& stream);

/// Columns of the result, and of a tile's part of it.
__host__ __device__ inline int result_width(const TileProduct& product) {
  return product.activates && product.rule.gated ? product.n / 2 : product.n;
}
__host__ __device__ inline int result_columns(const TileProduct& product) {
  return product.activates && product.rule.gated ? kTileColumns / 2 : kTileColumns;
}
__host__ __device__ inline int count_column_tiles(const TileProduct& product) {
  return (result_width(product) + result_columns(product) - 1) / result_columns(product);
}

}  // namespace quire::gpu
