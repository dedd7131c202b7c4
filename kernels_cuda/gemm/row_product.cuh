// out[t, n] = act(sum_k x[t, k] * weight[n, k] + bias[n]) + residual[t, n]: what the kernels for few rows have in
// common, the row x before the product and what becomes of its sums. x and residual may have been written by other
// multiprocessors while the kernel runs (chain.cu): they are read past the first-level cache.
#pragma once

#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/row_product.h"

namespace quire::gpu {

/// 16-byte pieces of a row that a thread keeps.
constexpr int kRowHeld = 4;

/// A float32 row's norm, rounded to T, into shared memory. What a thread can hold of the norm's weights it loads before
/// the wait for the previous kernel.
class RowNorm {
 public:
  __device__ explicit RowNorm(const RowProduct& params) : params_(params), thread_(thread_anew()) {
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) weights_[i] = weight_at(column_of(i));
  }

  /// `room`: 2 * kRowWarps floats. `sync()` is a barrier of the threads that do this. `get(values, columns)` reads x:
  /// four values from each of several columns, of those that are below k.
  template <typename T, typename Sync, typename Get>
  __device__ void make(T* x_shared, float* room, Sync&& sync, Get&& get) const {
    const float size = static_cast<float>(params_.k);
    float4 held[kRowHeld];
    int columns[kRowHeld];
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) columns[i] = column_of(i);
    get(held, columns);
    const auto x_at = [&](int column) {
      float4 value[1];
      get(value, {column});
      return value[0];
    };
    float center = 0.0f;
    if (params_.layer_norm) {
      const float sum = sum_of(held, x_at, [](const float4& v) { return (v.x + v.y) + (v.z + v.w); });
      center = total_of(sum, room, sync) / size;
    }
    const float square = sum_of(held, x_at, [&](const float4& v) {
      const float x = v.x - center, y = v.y - center, z = v.z - center, w = v.w - center;
      return (x * x + y * y) + (z * z + w * w);
    });
    const float factor = 1.0f / sqrtf(total_of(square, room + kRowWarps, sync) / size + params_.eps);
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) put(x_shared, column_of(i), held[i], weights_[i], center, factor);
    for (int i = kRowHeld; column_of(i) < params_.k; ++i) {
      put(x_shared, column_of(i), x_at(column_of(i)), weight_at(column_of(i)), center, factor);
    }
  }

 private:
  /// Of all threads. `room`: kRowWarps floats.
  template <typename Sync>
  __device__ float total_of(float value, float* room, Sync&& sync) const {
    value = warp_sum(value);
    if (thread_ % 32 == 0) room[thread_ / 32] = value;
    sync();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kRowWarps; ++warp) total += room[warp];
    return total;
  }

  __device__ int column_of(int i) const { return (i * kRowThreads + thread_) * 4; }

  __device__ float4 weight_at(int column) const {
    if (column >= params_.k || params_.norm_weight == nullptr) return {1.0f, 1.0f, 1.0f, 1.0f};
    return *reinterpret_cast<const float4*>(params_.norm_weight + column);
  }

  /// `term` of columns behind the end must not count, though they are held as zeros.
  template <typename XAt, typename Term>
  __device__ float sum_of(const float4* held, XAt&& x_at, Term&& term) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kRowHeld; ++i) sum += column_of(i) < params_.k ? term(held[i]) : 0.0f;
    for (int i = kRowHeld; column_of(i) < params_.k; ++i) sum += term(x_at(column_of(i)));
    return sum;
  }

  template <typename T>
  __device__ void put(T* x_shared, int column, float4 v, float4 weight, float center, float factor) const {
    if (column >= params_.k) return;
    float4 bias = {};
    if (params_.norm_bias != nullptr) bias = *reinterpret_cast<const float4*>(params_.norm_bias + column);
    uint2 packed;
    packed.x = pack_pair<T>((v.x - center) * factor * weight.x + bias.x, (v.y - center) * factor * weight.y + bias.y);
    packed.y = pack_pair<T>((v.z - center) * factor * weight.z + bias.z, (v.w - center) * factor * weight.w + bias.w);
    *reinterpret_cast<uint2*>(x_shared + column) = packed;
  }

  const RowProduct& params_;
  const int thread_;
  float4 weights_[kRowHeld];
};

/// How RowNorm reads a float32 row from memory.
struct PlainRow {
  const float* x;
  int k;
  template <int kCount>
  __device__ void operator()(float4 (&values)[kCount], const int (&columns)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = columns[i] < k ? __ldcg(reinterpret_cast<const float4*>(x + columns[i])) : float4{};
    }
  }
};

/// The row x into shared memory, zeros from column k to `padded`. With a norm those zeros alone.
template <typename T>
__device__ void fetch_row(const RowProduct& params, int padded, T* x_shared) {
  constexpr int kHeld = 8;  // reads of a thread that are under way at once
  const int from = params.has_norm ? params.k : 0;
  for (int first = from + static_cast<int>(threadIdx.x) * 8; first < padded; first += kHeld * kRowThreads * 8) {
    uint4 held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int column = first + i * kRowThreads * 8;
      held[i] = {0, 0, 0, 0};
      if (column < params.k) held[i] = __ldcg(reinterpret_cast<const uint4*>(static_cast<const T*>(params.x) + column));
    }
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int column = first + i * kRowThreads * 8;
      if (column < padded) *reinterpret_cast<uint4*>(x_shared + column) = held[i];
    }
  }
}

template <typename T>
__device__ inline void store(const RowProduct& params, int64_t at, float value) {
  if (params.out_type == OutType::kFloat32) {
    static_cast<float*>(params.out)[at] = value;
  } else {
    static_cast<T*>(params.out)[at] = from_float<T>(value);
  }
}

/// What is added to an output. It may be `out`, whose lines neighbours share: it is not to stay in this
/// multiprocessor's cache.
__device__ inline float residual_of(const RowProduct& params, int unit, int token) {
  return params.residual == nullptr ? 0.0f : __ldcg(params.residual + token * params.residual_stride + unit);
}

/// What becomes of the sum of an output, `other` that of its partner; before it is rounded.
template <typename T>
__device__ inline float finish(const RowProduct& params, int unit, int token, float value, float other,
                               float residual) {
  if (params.bias != nullptr) {
    value += params.bias[unit];
    if (params.rule.gated) other += params.bias[params.units + unit];
  }
  if (params.has_activation) value = activate(params.rule, value, other);
  if (params.residual != nullptr) value += residual;
  store<T>(params, token * params.out_stride + unit, value);
  return value;
}

}  // namespace quire::gpu
