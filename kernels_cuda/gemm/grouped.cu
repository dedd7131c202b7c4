// out[t, g, n] = sum_k x[t, g, k] * weight[g, n, k]: the matrices of latent attention, one small one for every head.
//
// A block of 4 warps has 64 tokens by 64 rows n of one group, each warp 32 by 32 (m16n8k16, tokens are operand a). K
// goes by in steps of 32, four of them in shared memory or under way to it. Rows there are 80 bytes apart: the eight
// rows that ldmatrix reads at once lie in different banks. With few tokens the read of the weights limits, with many
// the tensor cores.
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/gemm/grouped.h"

namespace quire::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kColumns = 32;
constexpr int kStages = 4;
constexpr int kStride = kColumns + 8;

struct Params {
  const void* x;
  int64_t x_token, x_group;  ///< strides
  const void* weight;
  void* out;
  int64_t out_token, out_group;
  int tokens, n, k;
};

template <typename T, typename Out>
__global__ void __launch_bounds__(kThreads) grouped_kernel(const Params params) {
  __shared__ __align__(16) T x_tiles[kStages][kTile][kStride];
  __shared__ __align__(16) T weight_tiles[kStages][kTile][kStride];
  const int first_n = blockIdx.x * kTile;
  const int first_token = blockIdx.y * kTile;
  const int64_t group = blockIdx.z;
  const T* const x = static_cast<const T*>(params.x) + group * params.x_group;
  const T* const weight = static_cast<const T*>(params.weight) + group * params.n * params.k;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;

  const int column = threadIdx.x % 4 * 8;
  const auto ask_weights = [&](int step) {
    for (int row = threadIdx.x / 4; row < kTile; row += kThreads / 4) {
      const int k = step * kColumns + column;
      const bool valid = first_n + row < params.n && k < params.k;
      async_copy_16(&weight_tiles[step % kStages][row][column],
                    valid ? weight + static_cast<int64_t>(first_n + row) * params.k + k : weight, valid);
    }
  };
  const auto ask_x = [&](int step) {
    for (int row = threadIdx.x / 4; row < kTile; row += kThreads / 4) {
      const int k = step * kColumns + column;
      const bool valid = first_token + row < params.tokens && k < params.k;
      async_copy_16(&x_tiles[step % kStages][row][column], valid ? x + (first_token + row) * params.x_token + k : x,
                    valid);
    }
  };

  const int steps = (params.k + kColumns - 1) / kColumns;
  for (int step = 0; step < kStages - 1; ++step) ask_weights(step);
  let_next_start();
  wait_for_previous();
  for (int step = 0; step < kStages - 1; ++step) {
    ask_x(step);
    async_copy_commit();
  }

  const int own_token = warp / 2 * 32;
  const int own_n = warp % 2 * 32;
  float sums[2][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    // The weights of the first steps belong to the first group.
    async_copy_wait<kStages - 2>();
    __syncthreads();
    ask_weights(step + kStages - 1);
    ask_x(step + kStages - 1);
    async_copy_commit();
    const auto& x_tile = x_tiles[step % kStages];
    const auto& weight_tile = weight_tiles[step % kStages];
#pragma unroll
    for (int k = 0; k < kColumns; k += 16) {
      uint32_t a[2][4];
      uint32_t b[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        load_matrices(a[i], shared_address(&x_tile[own_token + i * 16 + lane % 16][k + lane / 16 * 8]));
        load_matrices(b[i],
                      shared_address(&weight_tile[own_n + i * 16 + lane % 8 + lane / 16 * 8][k + lane / 8 % 2 * 8]));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) multiply_add<T>(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
      }
    }
  }

  Out* const out = static_cast<Out*>(params.out) + group * params.out_group;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int token = first_token + own_token + i * 16 + lane / 4 + part / 2 * 8;
        const int n = first_n + own_n + j * 8 + lane % 4 * 2 + part % 2;
        if (token < params.tokens && n < params.n)
          out[token * params.out_token + n] = from_float<Out>(sums[i][j][part]);
      }
    }
  }
}

template <typename T>
void launch_of(const GroupedLinearArgs& args, const Params& params, GpuStream& stream) {
  const dim3 grid((params.n + kTile - 1) / kTile, (params.tokens + kTile - 1) / kTile,
                  static_cast<unsigned>(args.weight->groups));
  const auto kernel = args.out.dtype == DType::kFloat32 ? grouped_kernel<T, float> : grouped_kernel<T, T>;
  launch("grouped_linear", kernel, grid, dim3(kThreads), 0, stream, params);
}

}  // namespace

bool grouped_tiles_fit(const GroupedLinearArgs& args, const Device& device) {
  const PackedLinear& weight = *args.weight;
  const bool is_16_bit = weight.dtype == DType::kBFloat16 || weight.dtype == DType::kFloat16;
  return device.compute_capability >= 80 && is_16_bit && args.x.dtype == weight.dtype &&
         (args.out.dtype == DType::kFloat32 || args.out.dtype == weight.dtype) && weight.k % 8 == 0 &&
         reinterpret_cast<uintptr_t>(args.x.data) % 16 == 0 && args.x.strides[0] % 8 == 0 && args.x.strides[1] % 8 == 0;
}

void grouped_tiles(const GroupedLinearArgs& args, GpuStream& stream) {
  const PackedLinear& weight = *args.weight;
  Params params{};
  params.x = args.x.data;
  params.x_token = args.x.strides[0];
  params.x_group = args.x.strides[1];
  params.weight = weight.data.data();
  params.out = args.out.data;
  params.out_token = args.out.strides[0];
  params.out_group = args.out.strides[1];
  params.tokens = static_cast<int>(args.x.shape[0]);
  params.n = static_cast<int>(weight.n);
  params.k = static_cast<int>(weight.k);
  if (weight.dtype == DType::kBFloat16) {
    launch_of<BFloat>(args, params, stream);
  } else {
    launch_of<Half>(args, params, stream);
  }
}

}  // namespace quire::gpu
