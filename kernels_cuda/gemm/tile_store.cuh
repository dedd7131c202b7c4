// How the results of a tile of tile_hopper.cu leave: bias, activation or residual, then memory.
//
// A thread has sums of rows of x by single columns of the result, as warpgroup instructions leave them (warpgroup.cuh).
// They go through shared memory, some rows at a time, and from there to memory in whole lines: parts of a line make the
// second-level cache fetch the rest, which takes longer than the product.
#pragma once

#include <cstddef>

#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/tile_schedule.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {

constexpr int kProductThreads = 256;
constexpr int kProductWarps = kProductThreads / 32;

/// Bytes from row to row of results on their way out, 16-bit and float32: no two rows that are written or read at once
/// begin in the same bank.
constexpr int kStagedStride = 64 * 2 + 16;
constexpr int kStagedFloatStride = 64 * 4 + 16;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/// Of the threads that multiply.
__device__ inline void product_barrier() {
  named_barrier<kProductThreads>(1);
}

/// Of the warpgroup.
__device__ inline void warpgroup_barrier() {
  named_barrier<128>(static_cast<int>(2 + threadIdx.x / 128));
}

/// Sums of kRows rows, of one thread.
template <int kRows>
struct Sums {
  float of[kRows / 2];

  __device__ void clear() {
#pragma unroll
    for (float& sum : of) sum = 0.0f;
  }

  __device__ void add(const Sums& other) {
#pragma unroll
    for (int i = 0; i < kRows / 2; ++i) of[i] += other.of[i];
  }
};

/// Which columns of the result a thread's warpgroup has, and where they wait to be written.
struct Columns {
  int count;          // of a warpgroup
  int first;          // of the warpgroup
  int first_of_warp;  // counted from there
  std::byte* staged;
};

/// `staging`: shared memory, so many bytes for each warpgroup.
__device__ inline Columns own_columns(const TileProduct& product, const Place& place, std::byte* staging, int bytes) {
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int count = result_columns(product) / 2;
  return {count, place.column_tile * result_columns(product) + warp / 4 * count, warp % 4 * count / 4,
          staging + warp / 4 * bytes};
}

/// Whether sums go through shared memory as they are, and become results on their way out of there: there each thread
/// has a few, in a loop that is short code. Else they are rounded before.
__device__ inline bool leaves_as_sums(const TileProduct& product) {
  return product.residual != nullptr || product.out_is_float32 || product.bias != nullptr || product.activates;
}

/// Put sums of kCount rows, or what they are rounded to, into shared memory, a row behind the other. Gated: sums of
/// gates, and behind them those of their partners.
template <typename T, int kCount>
__device__ void stage_rows(const float* sums, const Columns& columns, bool gated, bool as_sums) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int other_half = gated ? columns.count : 8;
#pragma unroll
  for (int j = 0; j < kCount / 8; j += 2) {
    const float* const values = &sums[j * 4];
    if (as_sums) {
      float* const to = reinterpret_cast<float*>(columns.staged) + columns.first_of_warp + lane / 4;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int row = (j + i / 4) * 8 + lane % 4 * 2 + i % 2;
        to[row * (kStagedFloatStride / 4) + i / 2 % 2 * other_half] = values[i];
      }
      continue;
    }
    const uint32_t row =
        shared_address(columns.staged) + (j * 8 + lane % 8) * kStagedStride + columns.first_of_warp * 2;
    store_matrices_transposed({pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]),
                               pack_pair<T>(values[4], values[5]), pack_pair<T>(values[6], values[7])},
                              row + lane / 16 * 8 * kStagedStride + lane / 8 % 2 * 16);
  }
}

/// Write a piece of 16 bytes of 16-bit results.
__device__ inline void write_piece(const TileProduct& product, int64_t row, int column, int width, uint4 piece) {
  uint16_t* const out = static_cast<uint16_t*>(product.out) + row * product.out_stride + column;
  if (column + 8 <= width) {
    *reinterpret_cast<uint4*>(out) = piece;
    return;
  }
  const uint32_t pairs[4] = {piece.x, piece.y, piece.z, piece.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (column + i < width) out[i] = static_cast<uint16_t>(pairs[i / 2] >> (i % 2 * 16));
  }
}

/// Four sums become results: bias, activation, residual, and memory. `staged`: where they wait; gated, their partners
/// are `partner` floats behind.
template <typename T>
__device__ void write_sums(const TileProduct& product, int matrix, int64_t row, int column, int width,
                           const float* staged, int partner) {
  const float4 sums = *reinterpret_cast<const float4*>(staged);
  float values[4] = {sums.x, sums.y, sums.z, sums.w};
  const float* const bias = product.bias == nullptr ? nullptr : product.bias + int64_t{matrix} * product.n + column;
  if (bias != nullptr) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] += column + i < width ? bias[i] : 0.0f;
  }
  if (product.activates) {
    float4 others{};
    if (product.rule.gated) others = *reinterpret_cast<const float4*>(staged + partner);
    float other_values[4] = {others.x, others.y, others.z, others.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (product.rule.gated && bias != nullptr && column + i < width) other_values[i] += bias[width + i];
      values[i] = activate_roughly(product.rule, values[i], other_values[i]);
    }
  }
  const bool whole = column + 4 <= width;
  if (product.residual != nullptr) {
    const float* const residual = product.residual + row * product.residual_stride + column;
    if (whole && reinterpret_cast<uintptr_t>(residual) % 16 == 0) {
      const float4 more = *reinterpret_cast<const float4*>(residual);
      values[0] += more.x;
      values[1] += more.y;
      values[2] += more.z;
      values[3] += more.w;
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += column + i < width ? residual[i] : 0.0f;
    }
  }
  const int64_t at = row * product.out_stride + column;
  if (product.out_is_float32) {
    float* const out = static_cast<float*>(product.out) + at;
    if (whole) {
      *reinterpret_cast<float4*>(out) = make_float4(values[0], values[1], values[2], values[3]);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (column + i < width) out[i] = values[i];
      }
    }
    return;
  }
  T* const out = static_cast<T*>(product.out) + at;
  if (whole) {
    *reinterpret_cast<uint2*>(out) = make_uint2(pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (column + i < width) out[i] = from_float<T>(values[i]);
    }
  }
}

/// Write the rows that wait, the first of them row `first` of the tile: whole lines of memory, since parts of a line
/// make the cache fetch the rest.
template <typename T, int kCount>
__device__ void write_rows(const TileProduct& product, const Place& place, const Columns& columns, bool as_sums,
                           int first, const int* row_of) {
  const int width = result_width(product);
  const int per_piece = as_sums ? 4 : 8;
  const int pieces = columns.count / per_piece;
  const int rows_at_once = 128 / pieces;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int column = thread % pieces * per_piece;
  if (columns.first + column >= width) return;
#pragma unroll 1
  for (int staged_row = thread / pieces; staged_row < kCount; staged_row += rows_at_once) {
    const int tile_row = first + staged_row;
    int64_t row = place.row_begin + tile_row;
    if (product.x_rows != nullptr) {
      row = row_of[tile_row];
      if (row < 0) continue;
    } else if (tile_row >= place.num_rows) {
      return;
    }
    if (as_sums) {
      const auto* const from =
          reinterpret_cast<const float*>(columns.staged + staged_row * kStagedFloatStride) + column;
      write_sums<T>(product, place.matrix, row, columns.first + column, width, from, columns.count);
    } else {
      const std::byte* const from = columns.staged + staged_row * kStagedStride + column * 2;
      write_piece(product, row, columns.first + column, width, *reinterpret_cast<const uint4*>(from));
    }
  }
}

/// Finish and write rows of a tile from row `first` on, by way of shared memory. `stage(as_sums)` puts them there.
template <typename T, int kCount, typename Stage>
__device__ void store_rows(const TileProduct& product, const Place& place, const Columns& columns, int first,
                           const int* row_of, Stage&& stage) {
  const bool as_sums = leaves_as_sums(product);
  stage(as_sums);
  warpgroup_barrier();
  write_rows<T, kCount>(product, place, columns, as_sums, first, row_of);
  warpgroup_barrier();
}

#endif

}  // namespace quire::gpu
