// How blocks share the tiles of a product (tile.cuh), and where a tile lies.
//
// A sum goes through K in units. As many tiles as fill the blocks evenly are computed whole; the units of the rest are
// cut into equal ranges, one for each block. Blocks that share a tile leave their sums in scratch, and the one that
// comes last joins them, in the order of k. For few rows that makes all multiprocessors read the same amount of
// weights. In a deterministic stream K is cut into chunks that depend on the matrix alone: each is summed by itself,
// whether by blocks of their own (few tiles) or one after the other (many), and then the sums in order.
#pragma once

#include "kernels_cuda/gemm/tile.cuh"

namespace quire::gpu {

constexpr int kLeastUnits = 4;  // of K, of a tile, that are worth a block of their own

/// A range of one tile's units.
struct Piece {
  int tile;
  int begin, end;
  int part, num_parts;  // which range it is, of how many
  int slot;             // of the first part's sums
  int counter;
};

/// Which pieces this block computes, in order.
class Schedule {
 public:
  /// `rows`: height of the tiles.
  __device__ Schedule(const TileProduct& product, int num_tiles, int num_units, int rows)
      : num_units_(num_units), chunks_(product.chunks), chunk_units_((num_units + chunks_ - 1) / chunks_) {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = static_cast<int>(blockIdx.x);
    cuts_chunks_ = chunks_ > 1 && num_tiles < blocks && num_tiles * chunks_ <= min(2 * blocks, product.max_partials) &&
                   num_tiles <= product.max_counters;
    if (cuts_chunks_) {
      position_ = block;
      end_ = num_tiles * chunks_;
      return;
    }
    num_whole_ = num_tiles / blocks * blocks;
    next_whole_ = block;
    const int rest = num_tiles - num_whole_;
    // Tiles of many rows have large sums, and are worth little to cut if they nearly fill the blocks.
    const bool prefers_whole = rows >= 128 && rest * 4 >= blocks * 3;
    const bool cuts = !product.deterministic && !prefers_whole && blocks + rest <= product.max_partials &&
                      rest <= product.max_counters;
    range_ = cuts ? max((rest * num_units + blocks - 1) / blocks, min(kLeastUnits, num_units)) : num_units;
    position_ = min(block * range_, rest * num_units);
    end_ = min(position_ + range_, rest * num_units);
  }

  __device__ bool next(Piece& piece) {
    piece.part = 0;
    piece.num_parts = 1;
    if (cuts_chunks_) {
      if (position_ >= end_) return false;
      piece.tile = position_ / chunks_;
      piece.part = position_ - piece.tile * chunks_;
      piece.num_parts = chunks_;
      piece.begin = piece.part * chunk_units_;
      piece.end = min(piece.begin + chunk_units_, num_units_);
      piece.slot = piece.tile * chunks_;
      piece.counter = piece.tile;
      position_ += static_cast<int>(gridDim.x);
      return true;
    }
    if (position_ < end_) {
      const int rest_tile = position_ / num_units_;
      const int first_unit = rest_tile * num_units_;
      piece.tile = num_whole_ + rest_tile;
      piece.begin = position_ - first_unit;
      piece.end = min(num_units_, end_ - first_unit);
      position_ = first_unit + piece.end;
      const int first_block = first_unit / range_;
      piece.part = static_cast<int>(blockIdx.x) - first_block;
      piece.num_parts = (first_unit + num_units_ - 1) / range_ - first_block + 1;
      // Every step along the units goes to the next block or the next tile, so no two pieces have the same sum.
      piece.slot = first_block + rest_tile;
      piece.counter = rest_tile;
      return true;
    }
    if (next_whole_ >= num_whole_) return false;
    piece.tile = next_whole_;
    piece.begin = 0;
    piece.end = num_units_;
    next_whole_ += static_cast<int>(gridDim.x);
    return true;
  }

  __device__ int chunk_units() const { return chunk_units_; }

 private:
  int num_units_;
  int chunks_;
  int chunk_units_;
  bool cuts_chunks_ = false;
  int position_ = 0, end_ = 0;          // chunks, or units of the tiles that are cut
  int range_ = 1;                       // units of a block
  int next_whole_ = 0, num_whole_ = 0;  // tiles
};

/// Where a tile lies.
struct Place {
  int matrix;
  int row_begin, num_rows;
  int column_tile;
};

template <int kRows>
__device__ Place locate(const TileProduct& product, int tile, int column_tiles) {
  const int index = tile / column_tiles;
  if (product.row_tiles == nullptr) {
    const int row_tiles = (product.num_rows + kRows - 1) / kRows;
    const int batch_begin = index / kTilesPerBatch * kTilesPerBatch;
    const int batch_size = min(kTilesPerBatch, row_tiles - batch_begin);
    const int inside = tile - batch_begin * column_tiles;
    const int row_begin = (batch_begin + inside % batch_size) * kRows;
    return {0, row_begin, min(kRows, product.num_rows - row_begin), inside / batch_size};
  }
  RowTile row_tile = product.row_tiles[index];
  const int inside = tile - row_tile.batch_begin * column_tiles;
  const int column_tile = inside / row_tile.batch_size;
  const int actual = row_tile.batch_begin + inside % row_tile.batch_size;
  if (actual != index) row_tile = product.row_tiles[actual];
  return {row_tile.matrix, row_tile.row_begin, row_tile.num_rows, column_tile};
}

/// How many tiles a product has, `rows` high.
__device__ inline int count_tiles(const TileProduct& product, int rows, int column_tiles) {
  const int row_tiles = product.row_tiles != nullptr ? *product.num_row_tiles : (product.num_rows + rows - 1) / rows;
  return row_tiles * column_tiles;
}

}  // namespace quire::gpu
