// out[t, g, n] = sum_k x[t, g, k] * weight[g, n, k]: the matrices of latent attention, one small one for every head.
//
// A block of four waves has 64 tokens by 128 rows n of one group, and goes through K in units of 64 (tile_stage.h), one
// in shared memory and the next on its way through registers. With few tokens the read of the weights limits, with many
// the matrix cores.
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/grouped.h"
#include "kernels_hip/common/matrix_lanes.h"
#include "kernels_hip/gemm/store_run.h"
#include "kernels_hip/gemm/tile_stage.h"

namespace quire::gpu {
namespace {

constexpr int kRows = 64;

struct Params {
  const void* x;
  int64_t x_token, x_group;  ///< strides
  const void* weight;
  void* out;
  int64_t out_token, out_group;
  int tokens, n, k;
};

/// This thread's chunks of a unit.
template <typename T, int kLanes>
__device__ void load(const Params& params, int first_k, StageChunks<kRows, kLanes>& chunks) {
  using Shape = TileShape<kRows, kLanes>;
  const int row = static_cast<int>(threadIdx.x) / kRowChunks;
  const int k = first_k + static_cast<int>(threadIdx.x) % kRowChunks * 8;
  const int64_t group = blockIdx.z;
  const T* const x = static_cast<const T*>(params.x) + group * params.x_group;
  const T* const weight = static_cast<const T*>(params.weight) + group * params.n * params.k;
#pragma unroll
  for (int i = 0; i < Shape::kRowCopies; ++i) {
    const int token = static_cast<int>(blockIdx.y) * kRows + row + i * Shape::kRowsAtOnce;
    chunks.x[i] = load_chunk(x + token * params.x_token + k, token < params.tokens && k < params.k);
  }
#pragma unroll
  for (int i = 0; i < Shape::kColumnCopies; ++i) {
    const int n = static_cast<int>(blockIdx.x) * kStageColumns + row + i * Shape::kRowsAtOnce;
    chunks.weights[i] = load_chunk(weight + static_cast<int64_t>(n) * params.k + k, n < params.n && k < params.k);
  }
}

template <typename T, typename Out, int kLanes>
__device__ void multiply_group(const Params& params, Chunk* stage) {
  using Core = MatrixCore<kLanes>;
  using Shape = TileShape<kRows, kLanes>;
  const int wave = wave_of_block<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  StageChunks<kRows, kLanes> chunks;
  TileSums<kRows, kLanes> sums;
  sums.clear();
  load<T, kLanes>(params, 0, chunks);
  for (int k = 0; k < params.k; k += kStageDepth) {
    __syncthreads();  // everybody is done with the unit before
    chunks.store(stage, static_cast<int>(threadIdx.x));
    __syncthreads();
    if (k + kStageDepth < params.k) load<T, kLanes>(params, k + kStageDepth, chunks);
    multiply_stage<T, kRows, kLanes>(sums, stage, wave, lane);
  }
  Out* const out = static_cast<Out*>(params.out) + static_cast<int64_t>(blockIdx.z) * params.out_group;
#pragma unroll
  for (int c = 0; c < Shape::kColumnFragments; ++c) {
    const int n =
        static_cast<int>(blockIdx.x) * kStageColumns + Shape::first_column(wave) + c * 16 + Core::first_row(lane);
#pragma unroll
    for (int r = 0; r < Shape::kRowFragments; ++r) {
      const int token = static_cast<int>(blockIdx.y) * kRows + Shape::first_row(wave) + r * 16 + Core::right_row(lane);
      if (token < params.tokens) {
        store_run(out + token * params.out_token + n, sums.of[r][c].values, params.n - n);
      }
    }
  }
}

template <typename T, typename Out>
__global__ void __launch_bounds__(kTileWaves * 64, 2) grouped_kernel(const Params params) {
  if constexpr (kMatrixLanes != 0) {
    __shared__ Chunk stage[TileShape<kRows, kMatrixLanes>::kStageChunks];
    multiply_group<T, Out, kMatrixLanes>(params, stage);
  }
}

template <typename T>
void launch_of(const GroupedLinearArgs& args, const Params& params, GpuStream& stream) {
  const dim3 grid((params.n + kStageColumns - 1) / kStageColumns, (params.tokens + kRows - 1) / kRows,
                  static_cast<unsigned>(args.weight->groups));
  const auto kernel = args.out.dtype == DType::kFloat32 ? grouped_kernel<T, float> : grouped_kernel<T, T>;
  const int threads = kTileWaves * matrix_lanes(stream.device());
  launch("grouped_linear", kernel, grid, dim3(static_cast<unsigned>(threads)), 0, stream, params);
}

/// Rows of every group begin at 16 bytes.
bool aligned(const Tensor& tensor) {
  const int64_t elements = 16 / dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.strides[0] % elements == 0 &&
         tensor.strides[1] % elements == 0;
}

}  // namespace

bool grouped_tiles_fit(const GroupedLinearArgs& args, const Device& device) {
  const PackedLinear& weight = *args.weight;
  const bool is_16_bit = weight.dtype == DType::kBFloat16 || weight.dtype == DType::kFloat16;
  return matrix_lanes(device) != 0 && is_16_bit && args.x.dtype == weight.dtype &&
         (args.out.dtype == DType::kFloat32 || args.out.dtype == weight.dtype) && weight.k % 8 == 0 &&
         aligned(args.x) && aligned(args.out);
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
