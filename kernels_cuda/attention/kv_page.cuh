// The inside of a KV page as kernels see it; kv_layout.h says what it is.
#pragma once

#include "kernels_cuda/attention/kv_layout.h"

namespace quire::gpu {

/// First chunk of the column that holds `chunk`, and how many it has, in rows of `chunks`.
struct KvColumn {
  int start;
  int width;
};

__host__ __device__ constexpr KvColumn kv_column(int chunk, int chunks) {
  const int start = chunk & ~7;
  if (start + 8 <= chunks) return {start, 8};
  int next = start;
  for (int width = 4; width > 1; width /= 2) {
    if ((chunks & width) == 0) continue;
    if (chunk < next + width) return {next, width};
    next += width;
  }
  return {next, 1};
}

/// How far the chunks of a row are turned.
__host__ __device__ constexpr int kv_turn(int row, int width) {
  return ((row * width) >> 3) & (width - 1);
}

/// Where a chunk lies, counted from the keys' or values' start, in a column of `rows` rows.
__host__ __device__ constexpr int kv_chunk_place(int chunk, int row, int chunks, int rows) {
  const KvColumn column = kv_column(chunk, chunks);
  return column.start * rows + row * column.width + ((chunk - column.start) ^ kv_turn(row, column.width));
}

}  // namespace quire::gpu
