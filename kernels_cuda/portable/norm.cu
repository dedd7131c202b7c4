// rms: x / sqrt(mean(x^2) + eps) * weight; layer: (x - mean) / sqrt(var + eps) * weight + bias; sums in float32, the
// variance from the differences to the mean. A row belongs to a warp if it is short (a head), else to a block. A thread
// keeps the first 4 runs of kCount elements of its row in registers, and reads what is beyond them again for every
// pass. The weights are asked for before the kernel waits for its x. Limited by latency for few rows, by bandwidth for
// many.
#include <algorithm>

#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

constexpr int kManyRuns = 4;
constexpr int kMaxThreads = 1024;
constexpr int kFewThreads = 256;  ///< so many wait for each other at little cost
constexpr int kWarpRows = 8;      ///< of a block whose warps have a row each

struct NormRows {
  const void* x;
  int64_t x_stride, x_head_stride;
  void* out;
  int64_t out_stride, out_head_stride;
  const float* weight;
  const float* bias;
  int64_t weight_head_stride, bias_head_stride;
  uint32_t num_rows;
  uint32_t num_heads;
  int32_t width;
  float eps;
  bool centered;  ///< layer norm
};

/// The sum over the threads of a row: a warp, or the block. `shared`: 32 floats not used before.
__device__ inline float row_sum(float value, float* shared) {
  value = warp_sum(value);
  if (blockDim.x == 32) return value;
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32);
  return warp_sum(lane < static_cast<int>(blockDim.x / 32) ? shared[lane] : 0.0f);
}

template <typename T, typename Out, int kCount, int kRuns>
class RowNorm {
 public:
  __device__ RowNorm(const NormRows& rows, uint32_t row) : rows_(rows) {
    const int64_t token = row / rows.num_heads;
    const int64_t head = row % rows.num_heads;
    x_ = static_cast<const T*>(rows.x) + token * rows.x_stride + head * rows.x_head_stride;
    out_ = static_cast<Out*>(rows.out) + token * rows.out_stride + head * rows.out_head_stride;
    weight_ = rows.weight == nullptr ? nullptr : rows.weight + head * rows.weight_head_stride;
    bias_ = rows.bias == nullptr ? nullptr : rows.bias + head * rows.bias_head_stride;
  }

  __device__ void load_weights() {
    for_kept([&](int run, int32_t i) {
      if (weight_ != nullptr) load_floats(weight_ + i, kept_weight_[run]);
    });
  }

  __device__ void load_row() {
    for_kept([&](int run, int32_t i) { load_floats(x_ + i, kept_[run]); });
  }

  /// Of (x - center) to the first or second power, over this thread's elements.
  __device__ float sum(float center, bool square) {
    float total = 0.0f;
    const auto take = [&](const float(&values)[kCount]) {
#pragma unroll
      for (float value : values) {
        const float difference = value - center;
        total += square ? difference * difference : difference;
      }
    };
    for_kept([&](int run, int32_t) { take(kept_[run]); });
    for_others([&](int32_t i) {
      float values[kCount];
      load_floats(x_ + i, values);
      take(values);
    });
    return total;
  }

  __device__ void write(float center, float factor) {
    for_kept([&](int run, int32_t i) { write_run(i, kept_[run], kept_weight_[run], center, factor); });
    for_others([&](int32_t i) {
      float values[kCount], weight[kCount];
      load_floats(x_ + i, values);
      if (weight_ != nullptr) load_floats(weight_ + i, weight);
      write_run(i, values, weight, center, factor);
    });
  }

 private:
  __device__ static int32_t stride() { return static_cast<int32_t>(blockDim.x) * kCount; }
  __device__ static int32_t start() { return static_cast<int32_t>(threadIdx.x) * kCount; }

  template <typename Body>
  __device__ void for_kept(const Body& body) {
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const int32_t i = start() + run * stride();
      if (i < rows_.width) body(run, i);
    }
  }

  template <typename Body>
  __device__ void for_others(const Body& body) {
    for (int32_t i = start() + kRuns * stride(); i < rows_.width; i += stride()) body(i);
  }

  __device__ void write_run(int32_t i, const float (&values)[kCount], const float (&weight)[kCount], float center,
                            float factor) {
    float result[kCount], bias[kCount];
    if (bias_ != nullptr) load_floats(bias_ + i, bias);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      result[j] = (values[j] - center) * factor;
      if (weight_ != nullptr) result[j] *= weight[j];
      if (bias_ != nullptr) result[j] += bias[j];
    }
    store_floats(out_ + i, result);
  }

  const NormRows& rows_;
  const T* x_;
  Out* out_;
  const float* weight_;
  const float* bias_;
  float kept_[kRuns][kCount];
  float kept_weight_[kRuns][kCount];
};

template <typename T, typename Out, int kCount, int kRuns>
__global__ void __launch_bounds__(kMaxThreads) norm_kernel(const __grid_constant__ NormRows rows) {
  __shared__ float shared[2][32];
  let_next_start();
  const uint32_t row = blockIdx.x * blockDim.y + threadIdx.y;
  if (row >= rows.num_rows) return;
  RowNorm<T, Out, kCount, kRuns> norm(rows, row);
  norm.load_weights();
  wait_for_previous();
  norm.load_row();
  const float size = static_cast<float>(rows.width);
  const float center = rows.centered ? row_sum(norm.sum(0.0f, false), shared[0]) / size : 0.0f;
  const float variance = row_sum(norm.sum(center, true), shared[1]) / size;
  norm.write(center, 1.0f / sqrtf(variance + rows.eps));
}

/// Threads of a row: two runs each, four if they are many, until a block is full.
int threads_per_row(int64_t width, int count) {
  if (width <= 32 * kManyRuns * count) return 32;
  const auto threads = [&](int runs) { return (width + runs * count - 1) / (runs * count); };
  const int64_t wanted = std::max(std::min<int64_t>(threads(2), kFewThreads), threads(kManyRuns));
  return static_cast<int>(std::min<int64_t>((wanted + 31) / 32 * 32, kMaxThreads));
}

template <typename T, typename Out>
auto choose_kernel(bool vectors, int64_t width) {
  if (!vectors) return norm_kernel<T, Out, 1, kManyRuns>;
  return width <= 32 * 4 ? norm_kernel<T, Out, 4, 1> : norm_kernel<T, Out, 4, kManyRuns>;
}

}  // namespace

void norm(const NormArgs& args, Stream& stream) {
  const Tensor& x = args.x;
  if (x.size() == 0) return;
  const bool heads = x.rank == 3;
  const int64_t num_heads = heads ? x.shape[1] : 1;
  const auto parameter_stride = [](const Tensor& parameter) { return parameter.rank == 2 ? parameter.strides[0] : 0; };
  const NormRows rows{.x = x.data,
                      .x_stride = x.strides[0],
                      .x_head_stride = heads ? x.strides[1] : 0,
                      .out = args.out.data,
                      .out_stride = args.out.strides[0],
                      .out_head_stride = heads ? args.out.strides[1] : 0,
                      .weight = args.weight.as<const float>(),
                      .bias = args.bias.as<const float>(),
                      .weight_head_stride = parameter_stride(args.weight),
                      .bias_head_stride = parameter_stride(args.bias),
                      .num_rows = static_cast<uint32_t>(x.shape[0] * num_heads),
                      .num_heads = static_cast<uint32_t>(num_heads),
                      .width = static_cast<int32_t>(x.shape[x.rank - 1]),
                      .eps = args.eps,
                      .centered = args.kind == NormKind::kLayer};
  const bool vectors = hold_vectors({x, args.out, args.weight, args.bias}, 4);
  const int threads = threads_per_row(rows.width, vectors ? 4 : 1);
  const uint32_t rows_per_block = threads == 32 ? kWarpRows : 1;
  const uint32_t blocks = (rows.num_rows + rows_per_block - 1) / rows_per_block;
  with_type(x.dtype, [&](auto type) {
    using T = decltype(type);
    with_type(args.out.dtype, [&](auto out_type) {
      using Out = decltype(out_type);
      launch("norm", choose_kernel<T, Out>(vectors, rows.width), blocks,
             dim3(static_cast<unsigned>(threads), rows_per_block), 0, as_gpu(stream), rows);
    });
  });
}

}  // namespace quire::gpu
