// Keys and values in shared memory, for the kernels on tensor cores. A cell holds 16 keys of one kv head and their
// values, each as in a page of 16 tokens (kv_layout.h), whatever the size of the pages that they come from: so that a
// page of 16 tokens is one run of memory to copy.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_cuda/common/bulk_copy.cuh"
#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/common/mma.cuh"

namespace quire::gpu {

constexpr int kCellKeys = 16;

template <int kDim>
struct Cell {
  static constexpr int kChunks = kDim / 8;
  static constexpr int kHalfBytes = kCellKeys * kDim * 2;  ///< the keys, or the values behind them
  static constexpr int kBytes = 2 * kHalfBytes;
  static constexpr int kColumns = kChunks / 8 + ((kChunks & 4) != 0) + ((kChunks & 2) != 0) + ((kChunks & 1) != 0);
};

/// Copy keys and values from a page of `block_size` tokens to a cell, by all lanes of a warp: tokens [first, first +
/// count) of the page to the cell's rows from `row` on; count is 8 or 16. `head`: the kv head's part of the page.
/// With bulk copies `barrier` must already expect count * kDim * 4 bytes. `policy`: nothing, or one of the second-level
/// cache.
template <int kDim, typename... Policy>
__device__ inline void copy_to_cell(std::byte* cell, int row, const std::byte* head, int block_size, int first,
                                    int count, uint32_t barrier, Policy... policy) {
  using C = Cell<kDim>;
  const int lane = threadIdx.x % 32;
  const auto copy_run = [&](std::byte* to, const std::byte* from, int bytes) {
    if constexpr (kBulkCopies) {
      bulk_copy(shared_address(to), from, static_cast<unsigned>(bytes), barrier, policy...);
    } else {
      for (int i = lane * kChunkBytes; i < bytes; i += 32 * kChunkBytes) {
        async_copy_16(to + i, from + i, /*valid=*/true, policy...);
      }
    }
  };
  if (block_size == kCellKeys) {
    if (!kBulkCopies || lane == 0) copy_run(cell, head, C::kBytes);
    return;
  }
  const auto copy_column = [&](int run) {
    const bool values = run >= C::kColumns;
    int column = values ? run - C::kColumns : run;
    int start = 0, width = 8;
    if (column < C::kChunks / 8) {
      start = column * 8;
    } else {
      column -= C::kChunks / 8;
      start = C::kChunks & ~7;
      for (width = 4;; width /= 2) {
        if ((C::kChunks & width) == 0) continue;
        if (column-- == 0) break;
        start += width;
      }
    }
    std::byte* const to = cell + (values ? C::kHalfBytes : 0) + (start * kCellKeys + row * width) * kChunkBytes;
    const std::byte* const from = head + (values ? int64_t{block_size} * C::kChunks * kChunkBytes : 0) +
                                  (start * block_size + first * width) * kChunkBytes;
    copy_run(to, from, count * width * kChunkBytes);
  };
  if constexpr (kBulkCopies) {
    if (lane < 2 * C::kColumns) copy_column(lane);
  } else {
    for (int run = 0; run < 2 * C::kColumns; ++run) copy_column(run);
  }
}

/// Address of chunk 2 * kPair + `odd` of a row, in a half cell (or 16 rows of q laid out like one). kPair is known when
/// compiling, the row and `odd` differ from lane to lane.
template <int kChunks>
__device__ inline uint32_t cell_address(uint32_t half, int pair, int row, int odd) {
  const KvColumn column = kv_column(2 * pair, kChunks);
  const int turned = (2 * pair - column.start) ^ (kv_turn(row, column.width) ^ odd);
  return half + static_cast<uint32_t>((column.start * kCellKeys + row * column.width + turned) * kChunkBytes);
}

/// The rows that a lane gives to load_matrices(). For rows of a (q, or transposed values): matrices are rows 0-7, rows
/// 8-15, then the same of the next chunk. For rows of b (keys): rows 0-7, the next chunk of them, then rows 8-15.
struct LaneRows {
  int a_row, a_odd, b_row, b_odd;
  __device__ LaneRows() {
    const int lane = threadIdx.x % 32;
    a_row = lane % 16;
    a_odd = lane / 16;
    b_row = lane / 16 * 8 + lane % 8;
    b_odd = lane / 8 % 2;
  }
};

// Scores.

constexpr float kLog2e = 1.4426950408889634f;

/// softcap * tanh(x / softcap), within a few units in the last place of softcap.
__device__ inline float soft_limit(float x, float softcap, float inverse) {
  const float e = power_of_two(2.0f * kLog2e * fabsf(x) * inverse);
  return copysignf(softcap * (1.0f - __fdividef(2.0f, e + 1.0f)), x);
}

/// Of four lanes that share a row.
__device__ inline float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ inline float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace quire::gpu
