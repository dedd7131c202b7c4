// out[t, g, n] = sum_k x[t, g, k] * weight[g, n, k] (+ bias[n]) (+ residual[t, n]) without tensor cores: strict float32
// for float32 models, and whatever has no better kernel. Types are looked at when loading, so there is one code for
// all.
//
// The sum of an output: segments of 256 columns, each a chain of multiply-adds from 0, added one after the other. Both
// forms below keep to it, so a row's bits are the same for any number of tokens.
//
// Few tokens: a block has 32 rows n, each of its 8 warps a segment; a lane is one row's chain for all tokens. Lines are
// read together and handed out through shared memory. Limited by latency, at about half of the bandwidth.
// Many: tiles of 64 tokens by 64 rows, a thread has 4 by 4 outputs. Limited by arithmetic and shared memory.
#include <algorithm>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/gemm/generic.h"

namespace quire::gpu {
namespace {

constexpr int kSegment = 256;
constexpr int kThreads = 256;

/// Numbers [groups][rows][columns] of any type.
struct Operand {
  const void* data;
  DType dtype;
  bool vectors;  ///< four neighbours are aligned to their size
  int64_t group_stride, row_stride;
};

struct Params {
  Operand x, weight;
  int64_t tokens, n, k;
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  void* out;
  DType out_dtype;
  int64_t out_group_stride, out_row_stride;
};

__device__ inline float load_one(const void* data, DType dtype, int64_t at) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[at];
  if (dtype == DType::kBFloat16) return to_float(static_cast<const BFloat*>(data)[at]);
  return to_float(static_cast<const Half*>(data)[at]);
}

template <typename T>
__device__ inline float4 load_vector(const void* data, int64_t at) {
  const auto values = *reinterpret_cast<const Vector<T, 4>*>(static_cast<const T*>(data) + at);
  return {to_float(values[0]), to_float(values[1]), to_float(values[2]), to_float(values[3])};
}

/// Columns column .. column + 3 of a row, zero where there is none.
__device__ inline float4 load_four(const Operand& from, int64_t group, int64_t row, int64_t rows, int64_t column,
                                   int64_t columns) {
  if (row >= rows || column >= columns) return {};
  const int64_t at = group * from.group_stride + row * from.row_stride + column;
  if (from.vectors) {
    if (from.dtype == DType::kFloat32) return load_vector<float>(from.data, at);
    if (from.dtype == DType::kBFloat16) return load_vector<BFloat>(from.data, at);
    return load_vector<Half>(from.data, at);
  }
  float4 values = {};
  values.x = load_one(from.data, from.dtype, at);
  if (column + 1 < columns) values.y = load_one(from.data, from.dtype, at + 1);
  if (column + 2 < columns) values.z = load_one(from.data, from.dtype, at + 2);
  if (column + 3 < columns) values.w = load_one(from.data, from.dtype, at + 3);
  return values;
}

__device__ inline void store_one(void* data, DType dtype, int64_t at, float value) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[at] = value;
  } else if (dtype == DType::kBFloat16) {
    static_cast<BFloat*>(data)[at] = from_float<BFloat>(value);
  } else {
    static_cast<Half*>(data)[at] = from_float<Half>(value);
  }
}

__device__ inline void finish(const Params& params, int64_t group, int64_t token, int64_t n, float sum) {
  if (token >= params.tokens || n >= params.n) return;
  if (params.bias != nullptr) sum += params.bias[n];
  // The residual may be `out`, whose lines neighbours share: it is not to stay in this multiprocessor's cache.
  if (params.residual != nullptr) sum += load_past_l1(params.residual + token * params.residual_stride + n);
  store_one(params.out, params.out_dtype, group * params.out_group_stride + token * params.out_row_stride + n, sum);
}

__device__ inline float multiply_add_four(float4 a, float4 b, float sum) {
  return fmaf(a.w, b.w, fmaf(a.z, b.z, fmaf(a.y, b.y, fmaf(a.x, b.x, sum))));
}

constexpr int kFew = 8;
constexpr int kFewRows = 32;
constexpr int kFewColumns = 32;  ///< of a segment at a time
constexpr int kFewWarps = kThreads / 32;
/// Lanes read 16 bytes of 8 rows at a time from different banks.
constexpr int kFewStride = kFewColumns + 4;

template <int kTokens>
__global__ void __launch_bounds__(kThreads) few_tokens_kernel(const Params params) {
  __shared__ __align__(16) float weights[kFewWarps][kFewRows][kFewStride];
  __shared__ __align__(16) float rows[kFewWarps][kTokens][kFewColumns];
  // What the tokens' columns lie in becomes the sums of a segment.
  auto& segments = rows;
  static_assert(kFewColumns == kFewRows);
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int64_t group = blockIdx.y;
  const int64_t first_n = static_cast<int64_t>(blockIdx.x) * kFewRows;
  const int column = lane % 8 * 4;

  float4 next[kFewRows / 4];
  const auto load_weights = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < kFewRows / 4; ++i) {
      next[i] = load_four(params.weight, group, first_n + i * 4 + lane / 8, params.n, k + column, params.k);
    }
  };
  load_weights(static_cast<int64_t>(warp) * kSegment);
  let_next_start();
  wait_for_previous();

  float total = 0.0f;  // of token threadIdx / 32, row threadIdx % 32
  for (int64_t round = 0; round < params.k; round += kFewWarps * kSegment) {
    float sums[kTokens] = {};
    for (int part = 0; part < kSegment; part += kFewColumns) {
      const int64_t k = round + warp * kSegment + part;
      sync_warp();
#pragma unroll
      for (int i = 0; i < kFewRows / 4; ++i) {
        *reinterpret_cast<float4*>(&weights[warp][i * 4 + lane / 8][column]) = next[i];
      }
#pragma unroll
      for (int t = 0; t < kTokens; t += 4) {
        if (t + lane / 8 >= kTokens) continue;
        *reinterpret_cast<float4*>(&rows[warp][t + lane / 8][column]) =
            load_four(params.x, group, t + lane / 8, params.tokens, k + column, params.k);
      }
      const int64_t behind = part + kFewColumns < kSegment ? k + kFewColumns : round + (kFewWarps + warp) * kSegment;
      load_weights(behind);
      sync_warp();
#pragma unroll
      for (int i = 0; i < kFewColumns; i += 4) {
        const float4 weight = *reinterpret_cast<const float4*>(&weights[warp][lane][i]);
#pragma unroll
        for (int t = 0; t < kTokens; ++t) {
          sums[t] = multiply_add_four(*reinterpret_cast<const float4*>(&rows[warp][t][i]), weight, sums[t]);
        }
      }
    }
    sync_warp();
#pragma unroll
    for (int t = 0; t < kTokens; ++t) segments[warp][t][lane] = sums[t];
    __syncthreads();
    if (warp < kTokens) {
      for (int i = 0; i < kFewWarps; ++i) total += segments[i][warp][lane];
    }
    __syncthreads();
  }
  if (warp < kTokens) finish(params, group, warp, first_n + lane, total);
}

constexpr int kTile = 64;
constexpr int kTileColumns = 16;
constexpr int kTileStride = kTile + 4;

__global__ void __launch_bounds__(kThreads) tile_kernel(const Params params) {
  __shared__ __align__(16) float x_tile[2][kTileColumns][kTileStride];
  __shared__ __align__(16) float weight_tile[2][kTileColumns][kTileStride];
  const int64_t group = blockIdx.z;
  const int64_t first_n = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_token = static_cast<int64_t>(blockIdx.y) * kTile;
  const int load_row = threadIdx.x / 4;
  const int load_column = threadIdx.x % 4 * 4;
  const int own_n = threadIdx.x % 16 * 4;
  const int own_token = threadIdx.x / 16 * 4;

  float4 next_x, next_weight;
  const auto load = [&](int64_t k) {
    next_x = load_four(params.x, group, first_token + load_row, params.tokens, k + load_column, params.k);
    next_weight = load_four(params.weight, group, first_n + load_row, params.n, k + load_column, params.k);
  };
  const auto put = [&](float(*tile)[kTileStride], float4 values) {
    tile[load_column][load_row] = values.x;
    tile[load_column + 1][load_row] = values.y;
    tile[load_column + 2][load_row] = values.z;
    tile[load_column + 3][load_row] = values.w;
  };
  let_next_start();
  wait_for_previous();

  float totals[4][4] = {};
  float sums[4][4] = {};
  load(0);
  int buffer = 0;
  for (int64_t k = 0; k < params.k; k += kTileColumns, buffer ^= 1) {
    put(x_tile[buffer], next_x);
    put(weight_tile[buffer], next_weight);
    __syncthreads();
    load(k + kTileColumns);
#pragma unroll
    for (int i = 0; i < kTileColumns; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(&x_tile[buffer][i][own_token]);
      const float4 weight = *reinterpret_cast<const float4*>(&weight_tile[buffer][i][own_n]);
      const float x_values[4] = {x.x, x.y, x.z, x.w};
      const float weight_values[4] = {weight.x, weight.y, weight.z, weight.w};
#pragma unroll
      for (int t = 0; t < 4; ++t) {
#pragma unroll
        for (int n = 0; n < 4; ++n) sums[t][n] = fmaf(x_values[t], weight_values[n], sums[t][n]);
      }
    }
    const bool segment_ends = (k + kTileColumns) % kSegment == 0 || k + kTileColumns >= params.k;
    if (!segment_ends) continue;
#pragma unroll
    for (int t = 0; t < 4; ++t) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        totals[t][n] += sums[t][n];
        sums[t][n] = 0.0f;
      }
    }
  }
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      finish(params, group, first_token + own_token + t, first_n + own_n + n, totals[t][n]);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    add_bias_kernel(void* out, DType dtype, int64_t stride, const float* bias, int64_t tokens, int64_t n) {
  let_next_start();
  wait_for_previous();
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < tokens * n;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    const int64_t at = i / n * stride + i % n;
    store_one(out, dtype, at, load_one(out, dtype, at) + bias[i % n]);
  }
}

__global__ void __launch_bounds__(kThreads)
    round_vector_kernel(const float* from, void* to, DType dtype, int64_t size) {
  let_next_start();
  wait_for_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < size) store_one(to, dtype, i, from[i]);
}

Operand operand(const void* data, DType dtype, int64_t group_stride, int64_t row_stride, int64_t k) {
  const auto address = reinterpret_cast<uintptr_t>(data);
  const bool vectors = address % static_cast<uintptr_t>(4 * dtype_bytes(dtype)) == 0 && group_stride % 4 == 0 &&
                       row_stride % 4 == 0 && k % 4 == 0;
  return {data, dtype, vectors, group_stride, row_stride};
}

unsigned ceil_div(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

void run(const Params& params, int64_t groups, GpuStream& stream) {
  if (params.tokens == 0) return;
  const dim3 block(kThreads);
  if (params.tokens <= kFew) {
    const dim3 grid(ceil_div(params.n, kFewRows), static_cast<unsigned>(groups));
    const auto kernel = params.tokens == 1 ? few_tokens_kernel<1> : few_tokens_kernel<kFew>;
    return launch("linear", kernel, grid, block, 0, stream, params);
  }
  const dim3 grid(ceil_div(params.n, kTile), ceil_div(params.tokens, kTile), static_cast<unsigned>(groups));
  launch("linear", tile_kernel, grid, block, 0, stream, params);
}

}  // namespace

void generic_linear(const LinearArgs& args, GpuStream& stream) {
  const PackedLinear& weight = *args.weight;
  Params params{};
  params.x = operand(args.x.data, args.x.dtype, 0, args.x.strides[0], weight.k);
  params.weight = operand(weight.data.data(), weight.dtype, 0, weight.k, weight.k);
  params.tokens = args.x.shape[0];
  params.n = weight.n;
  params.k = weight.k;
  params.bias = args.bias.as<const float>();
  params.residual = args.residual.as<const float>();
  params.residual_stride = args.residual.strides[0];
  params.out = args.out.data;
  params.out_dtype = args.out.dtype;
  params.out_row_stride = args.out.strides[0];
  run(params, 1, stream);
}

void generic_grouped_linear(const GroupedLinearArgs& args, GpuStream& stream) {
  const PackedLinear& weight = *args.weight;
  Params params{};
  params.x = operand(args.x.data, args.x.dtype, args.x.strides[1], args.x.strides[0], weight.k);
  params.weight = operand(weight.data.data(), weight.dtype, weight.n * weight.k, weight.k, weight.k);
  params.tokens = args.x.shape[0];
  params.n = weight.n;
  params.k = weight.k;
  params.out = args.out.data;
  params.out_dtype = args.out.dtype;
  params.out_group_stride = args.out.strides[1];
  params.out_row_stride = args.out.strides[0];
  run(params, weight.groups, stream);
}

void add_bias(const Tensor& out, const Tensor& bias, GpuStream& stream) {
  const int64_t tokens = out.shape[0];
  const int64_t n = out.shape[1];
  const unsigned blocks = std::min(ceil_div(tokens * n, kThreads), 8u * stream.device().num_multiprocessors);
  launch("linear", add_bias_kernel, dim3(blocks), dim3(kThreads), 0, stream, out.data, out.dtype, out.strides[0],
         bias.as<const float>(), tokens, n);
}

void round_vector(const Tensor& from, const Tensor& to, GpuStream& stream) {
  launch("linear", round_vector_kernel, dim3(ceil_div(from.shape[0], kThreads)), dim3(kThreads), 0, stream,
         from.as<const float>(), to.data, to.dtype, from.shape[0]);
}

}  // namespace quire::gpu
