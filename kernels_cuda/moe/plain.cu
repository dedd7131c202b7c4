// out[r, n] = act(sum over k of x[row of r, k] * matrix[n, k] + bias[n]) with fused multiply-adds in float32, one after
// the other from k = 0, for rows of several matrices: whatever the types, K and alignment. A row's result depends on
// nothing but the row.
//
// A block of 256 threads computes tiles of 32 rows by 64 columns (gated: 32 columns and their partners): a thread 4
// rows by 2 columns, 32 apart. K comes in units of 16 through shared memory, as float32. What limits: multiply-adds and
// the loads of single elements; this is the path of float32 models and odd shapes, not the fast one.
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/moe/plain.cuh"

namespace quire::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 64;
constexpr int kUnit = 16;
constexpr int kRowsPerThread = kPlainRows / (kThreads / 32);

__device__ float read_element(const void* memory, int64_t at, DType dtype) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(memory)[at];
  if (dtype == DType::kBFloat16) return to_float(static_cast<const BFloat*>(memory)[at]);
  return to_float(static_cast<const Half*>(memory)[at]);
}

__device__ void write_element(void* memory, int64_t at, DType dtype, float value) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(memory)[at] = value;
  } else if (dtype == DType::kBFloat16) {
    static_cast<BFloat*>(memory)[at] = from_float<BFloat>(value);
  } else {
    static_cast<Half*>(memory)[at] = from_float<Half>(value);
  }
}

__global__ void __launch_bounds__(kThreads)
    plain_kernel(const TileProduct product, DType x_dtype, DType weight_dtype, DType out_dtype) {
  __shared__ float x[kUnit][kPlainRows + 1];
  __shared__ float weights[kUnit][kColumns + 1];
  let_next_start();
  wait_for_previous();
  const bool gated = product.activates && product.rule.gated;
  const int width = gated ? product.n / 2 : product.n;
  const int tile_columns = gated ? kColumns / 2 : kColumns;
  const int column_tiles = (width + tile_columns - 1) / tile_columns;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int first_row = thread / 32 * kRowsPerThread;
  const int num_tiles = *product.num_row_tiles * column_tiles;
  for (int tile = static_cast<int>(blockIdx.x); tile < num_tiles; tile += static_cast<int>(gridDim.x)) {
    const RowTile rows = product.row_tiles[tile / column_tiles];
    const int first_column = tile % column_tiles * tile_columns;
    const int64_t matrix = int64_t{rows.matrix} * product.n;
    // Which row of the matrix a column of the tile is; -1: none.
    const auto feature = [&](int column) {
      const int partner = gated ? column / 32 : 0;
      const int result = first_column + (gated ? column % 32 : column);
      return result < width ? result + partner * width : -1;
    };
    float sums[kRowsPerThread][2] = {};
    for (int k = 0; k < product.k; k += kUnit) {
      __syncthreads();
      const int at = k + thread % kUnit;
      for (int row = thread / kUnit; row < kPlainRows; row += kThreads / kUnit) {
        float value = 0.0f;
        if (row < rows.num_rows && at < product.k) {
          int64_t x_row = rows.row_begin + row;
          if (product.x_rows != nullptr) x_row = product.x_rows[x_row];
          value = read_element(product.x, x_row * product.x_stride + at, x_dtype);
        }
        x[thread % kUnit][row] = value;
      }
      for (int column = thread / kUnit; column < kColumns; column += kThreads / kUnit) {
        const int n = feature(column);
        const bool valid = n >= 0 && at < product.k;
        weights[thread % kUnit][column] =
            valid ? read_element(product.weight, (matrix + n) * product.k + at, weight_dtype) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int i = 0; i < kUnit; ++i) {
        const float weight0 = weights[i][lane];
        const float weight1 = weights[i][lane + 32];
#pragma unroll
        for (int row = 0; row < kRowsPerThread; ++row) {
          sums[row][0] = fmaf(x[i][first_row + row], weight0, sums[row][0]);
          sums[row][1] = fmaf(x[i][first_row + row], weight1, sums[row][1]);
        }
      }
    }
#pragma unroll
    for (int row = 0; row < kRowsPerThread; ++row) {
      if (first_row + row >= rows.num_rows) continue;
      const int64_t out_row = rows.row_begin + first_row + row;
      float values[2];
      for (int c = 0; c < 2; ++c) {
        const int n = feature(lane + c * 32);
        values[c] = sums[row][c] + (product.bias != nullptr && n >= 0 ? product.bias[matrix + n] : 0.0f);
      }
      const int64_t at = out_row * product.out_stride + first_column + lane;
      if (gated) {
        if (feature(lane) >= 0) write_element(product.out, at, out_dtype, activate(product.rule, values[0], values[1]));
        continue;
      }
      for (int c = 0; c < 2; ++c) {
        if (feature(lane + c * 32) < 0) continue;
        const float value = product.activates ? activate(product.rule, values[c], 0.0f) : values[c];
        write_element(product.out, at + c * 32, out_dtype, value);
      }
    }
  }
}

}  // namespace

void multiply_plain(const TileProduct& product, DType x, DType weight, DType out, GpuStream& stream) {
  launch("experts", plain_kernel, dim3(static_cast<unsigned>(4 * stream.device().num_multiprocessors)), dim3(kThreads),
         0, stream, product, x, weight, out);
}

}  // namespace quire::gpu
