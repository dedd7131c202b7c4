// out[t] = sum over j of weights[t, j] * ffn(experts[t, j], x[t]) (+ residual[t]).
//
// Four kernels, whose grids do not depend on who goes where. Rows, that is pairs of a token and one of its experts, are
// put in order of their experts by one block, which also cuts them into row tiles; the tiles of the up product take
// their rows of x from where they are and apply the activation; the down product follows; then every token adds up its
// rows. What limits: reading the weights of the experts in use for few tokens, the products for many.
#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/layouts.h"
#include "kernels_cuda/moe/plain.cuh"
#include "kernels_cuda/moe/tiles.h"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr int kOrderThreads = 1024;
/// Counts that the ordering block has room for in shared memory, for every expert and warp.
constexpr int kMostCounts = 11 * 1024;
/// Pairs that a warp looks at together: loads of that many are under way at a time.
constexpr int kPairsAtOnce = 128;

/// What is in MoeArgs::scratch.
struct Scratch {
  int32_t* row_of;         ///< [T, top_k]
  int32_t* token_of;       ///< [rows]
  int32_t* num_row_tiles;  ///< [1]
  RowTile* row_tiles;
  void* activated;  ///< [rows, F], type of x
  float* outputs;   ///< [rows, D]
  size_t bytes;

  Scratch(void* memory, int64_t num_rows, int64_t num_experts, int64_t ffn_width, int64_t width) {
    bytes = 0;
    const auto place = [&](int64_t size) {
      void* const at = static_cast<std::byte*>(memory) + bytes;
      bytes += (static_cast<size_t>(size) + 255) / 256 * 256;
      return at;
    };
    constexpr int kSmallestTile = 16;
    const int64_t most_tiles = num_rows / kSmallestTile + std::min(num_rows, num_experts);
    row_of = static_cast<int32_t*>(place(num_rows * 4));
    token_of = static_cast<int32_t*>(place(num_rows * 4));
    num_row_tiles = static_cast<int32_t*>(place(4));
    row_tiles = static_cast<RowTile*>(place(most_tiles * static_cast<int64_t>(sizeof(RowTile))));
    activated = place(num_rows * ffn_width * 4);
    outputs = static_cast<float*>(place(num_rows * width * 4));
  }
};

struct OrderArgs {
  const int32_t* experts;
  int32_t num_pairs, num_experts, top_k;
  int32_t rows_per_tile;
  int32_t num_warps;  ///< that count and place pairs
  Scratch scratch;
};

/// Counting sort of pairs by expert; those of one expert stay in the order of their tokens. Every warp counts and then
/// places a range of its own.
__global__ void __launch_bounds__(kOrderThreads) order_kernel(const OrderArgs args) {
  __shared__ int counts[kMostCounts];  // [warp][expert]; then where the warp's next pair of the expert goes
  __shared__ int2 warp_sums[kOrderThreads / 32];
  let_next_start();
  wait_for_previous();
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int num_experts = args.num_experts;
  for (int i = thread; i < args.num_warps * num_experts; i += kOrderThreads) counts[i] = 0;
  __syncthreads();
  const int range = (args.num_pairs + args.num_warps - 1) / args.num_warps;
  const int begin = min(warp * range, args.num_pairs);
  const int end = warp < args.num_warps ? min(begin + range, args.num_pairs) : begin;
  int* const own = counts + min(warp, args.num_warps - 1) * num_experts;
  const auto for_pairs = [&](const auto& work) {
    constexpr int kEach = kPairsAtOnce / 32;
    for (int first = begin; first < end; first += kPairsAtOnce) {
      int expert[kEach];
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        const int pair = first + i * 32 + lane;
        expert[i] = pair < end ? args.experts[pair] : -1;
      }
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        if (first + i * 32 < end) work(first + i * 32 + lane, expert[i]);
      }
    }
  };
  for_pairs([&](int, int expert) {
    if (expert >= 0) atomicAdd(own + expert, 1);
  });
  __syncthreads();
  int2 before = make_int2(0, 0);  // rows and row tiles of the experts before
  for (int first = 0; first < num_experts; first += kOrderThreads) {
    const int expert = first + thread;
    int rows = 0;
    if (expert < num_experts) {
      for (int w = 0; w < args.num_warps; ++w) rows += counts[w * num_experts + expert];
    }
    const int tiles = (rows + args.rows_per_tile - 1) / args.rows_per_tile;
    int2 sum = make_int2(rows, tiles);  // up to this expert
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int more_rows = shuffle_up(sum.x, offset);
      const int more_tiles = shuffle_up(sum.y, offset);
      if (lane >= offset) {
        sum.x += more_rows;
        sum.y += more_tiles;
      }
    }
    if (lane == 31) warp_sums[warp] = sum;
    __syncthreads();
    int2 all = make_int2(0, 0);
    for (int w = 0; w < kOrderThreads / 32; ++w) {
      if (w == warp) {
        sum.x += all.x;
        sum.y += all.y;
      }
      all.x += warp_sums[w].x;
      all.y += warp_sums[w].y;
    }
    __syncthreads();
    if (expert < num_experts) {
      const int row_begin = before.x + sum.x - rows;
      int next = row_begin;
      for (int w = 0; w < args.num_warps; ++w) {
        const int count = counts[w * num_experts + expert];
        counts[w * num_experts + expert] = next;
        next += count;
      }
      const int tile_begin = before.y + sum.y - tiles;
      for (int i = 0; i < tiles; ++i) {
        const int batch = i / kTilesPerBatch * kTilesPerBatch;
        args.scratch.row_tiles[tile_begin + i] = {expert, row_begin + i * args.rows_per_tile,
                                                  min(args.rows_per_tile, rows - i * args.rows_per_tile),
                                                  tile_begin + batch, min(kTilesPerBatch, tiles - batch)};
      }
    }
    before.x += all.x;
    before.y += all.y;
  }
  if (thread == 0) *args.scratch.num_row_tiles = before.y;
  __syncthreads();
  for_pairs([&](int pair, int expert) {
    // Lanes of the same expert take rows in their order.
    const unsigned same = lanes_like(expert);
    int row = 0;
    if (expert >= 0) row = own[expert] + __popc(same & ((1u << lane) - 1));
    sync_warp();
    if (expert >= 0) {
      if (lane == lowest_lane(same)) own[expert] += __popc(same);
      args.scratch.row_of[pair] = row;
      args.scratch.token_of[row] = pair / args.top_k;
    }
    sync_warp();
  });
}

/// out[row] = x[token of row], in pieces of 16 bytes.
__global__ void __launch_bounds__(256)
    gather_kernel(const uint4* x, int64_t x_stride, const int32_t* token_of, int64_t num_rows, int pieces, uint4* out) {
  let_next_start();
  wait_for_previous();
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < num_rows * pieces; i += step) {
    const int64_t row = i / pieces;
    out[i] = x[token_of[row] * x_stride + (i - row * pieces)];
  }
}

struct JoinArgs {
  const float* outputs;
  const int32_t* row_of;
  const float* weights;
  int32_t top_k;
  int32_t width;
  const float* residual;
  int64_t residual_stride;
  void* out;
  int64_t out_stride;
};

/// Every token's rows, times their weights, in the order of its experts. kCount columns a thread: 4, or 1 where rows
/// are not aligned.
template <typename Out, int kCount>
__global__ void __launch_bounds__(256) join_kernel(const JoinArgs args) {
  let_next_start();
  wait_for_previous();
  const int64_t token = blockIdx.y;
  const int column = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * kCount;
  if (column >= args.width) return;
  const int32_t* const rows = args.row_of + token * args.top_k;
  const float* const weights = args.weights + token * args.top_k;
  Vector<float, kCount> sum;
#pragma unroll
  for (int i = 0; i < kCount; ++i) sum[i] = 0.0f;
#pragma unroll 8
  for (int j = 0; j < args.top_k; ++j) {
    const auto values =
        *reinterpret_cast<const Vector<float, kCount>*>(args.outputs + int64_t{rows[j]} * args.width + column);
    const float weight = weights[j];
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] = fmaf(weight, values[i], sum[i]);
  }
  if (args.residual != nullptr) {
    const auto values =
        *reinterpret_cast<const Vector<float, kCount>*>(args.residual + token * args.residual_stride + column);
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum[i] += values[i];
  }
  Vector<Out, kCount> result;
#pragma unroll
  for (int i = 0; i < kCount; ++i) result[i] = from_float<Out>(sum[i]);
  *reinterpret_cast<Vector<Out, kCount>*>(static_cast<Out*>(args.out) + token * args.out_stride + column) = result;
}

bool aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.strides[0] * dtype_bytes(tensor.dtype) % 16 == 0;
}

template <int kCount>
void join(const JoinArgs& args, DType out, int64_t num_tokens, GpuStream& stream) {
  const int threads = std::min(256, (args.width / kCount + 31) / 32 * 32);
  const int64_t per_block = int64_t{threads} * kCount;
  // A grid is at most 65535 high.
  constexpr int64_t kMostTokens = 32768;
  for (int64_t first = 0; first < num_tokens; first += kMostTokens) {
    JoinArgs part = args;
    part.row_of += first * args.top_k;
    part.weights += first * args.top_k;
    if (part.residual != nullptr) part.residual += first * args.residual_stride;
    part.out = static_cast<std::byte*>(args.out) + first * args.out_stride * dtype_bytes(out);
    const dim3 grid(static_cast<unsigned>((args.width + per_block - 1) / per_block),
                    static_cast<unsigned>(std::min(kMostTokens, num_tokens - first)));
    with_type(out, [&](auto element) {
      launch("experts' sum", join_kernel<decltype(element), kCount>, grid, dim3(static_cast<unsigned>(threads)), 0,
             stream, part);
    });
  }
}

}  // namespace

bool suits_tiles(const MoeArgs& args) {
  const DType dtype = args.x.dtype;
  return dtype != DType::kFloat32 && args.up->dtype == dtype && args.down->dtype == dtype && args.up->k % 8 == 0 &&
         args.down->k % 8 == 0 && aligned(args.x);
}

int64_t likely_rows(const MoeArgs& args) {
  const auto num_tokens = static_cast<double>(args.x.shape[0]);
  const double share = std::min(1.0, static_cast<double>(args.top_k) / static_cast<double>(args.up->groups));
  const double used = 1.0 - std::pow(1.0 - share, num_tokens);
  return static_cast<int64_t>(std::ceil(num_tokens * share / std::max(used, 1e-9)));
}

size_t moe_scratch_bytes(const MoeShape& shape) {
  return Scratch(nullptr, shape.num_tokens * shape.top_k, shape.num_experts, shape.ffn_width, shape.width).bytes;
}

void moe(const MoeArgs& args, Stream& any_stream) {
  GpuStream& stream = as_gpu(any_stream);
  const int64_t num_tokens = args.x.shape[0];
  const int64_t num_rows = num_tokens * args.top_k;
  if (num_rows == 0) return;
  const PackedLinear& up = *args.up;
  const PackedLinear& down = *args.down;
  const int64_t width = args.x.shape[1];
  const int64_t num_experts = up.groups;
  QUIRE_CHECK(num_experts <= kMostCounts, "experts=", num_experts);
  const Scratch scratch(args.scratch, num_rows, num_experts, down.k, width);
  const DType dtype = args.x.dtype;
  TileProduct first;
  first.x = args.x.data;
  first.x_stride = args.x.strides[0];
  first.num_x_rows = num_tokens;
  first.x_rows = scratch.token_of;
  first.weight = up.data.data();
  first.num_matrices = static_cast<int32_t>(num_experts);
  first.n = static_cast<int32_t>(up.n);
  first.k = static_cast<int32_t>(up.k);
  first.row_tiles = scratch.row_tiles;
  first.num_row_tiles = scratch.num_row_tiles;
  if (args.up_bias) first.bias = args.up_bias.as<const float>();
  first.out = scratch.activated;
  first.out_stride = down.k;
  first.activates = true;
  first.rule = args.activation;
  TileProduct second;
  second.x = scratch.activated;
  second.x_stride = down.k;
  second.num_x_rows = num_rows;
  second.weight = down.data.data();
  second.num_matrices = first.num_matrices;
  second.n = static_cast<int32_t>(down.n);
  second.k = static_cast<int32_t>(down.k);
  second.row_tiles = scratch.row_tiles;
  second.num_row_tiles = scratch.num_row_tiles;
  second.row_tiles_are_old = true;
  if (args.down_bias) second.bias = args.down_bias.as<const float>();
  second.out = scratch.outputs;
  second.out_stride = width;
  second.out_is_float32 = true;

  const ExpertTiles tiles = choose_expert_tiles(args, first, stream);
  first.likely_row_tiles = second.likely_row_tiles = tiles.likely_row_tiles;
  OrderArgs order{
      args.experts, static_cast<int32_t>(num_rows), static_cast<int32_t>(num_experts), args.top_k, tiles.rows, 0,
      scratch};
  order.num_warps = static_cast<int32_t>(
      std::min({(num_rows + kPairsAtOnce - 1) / kPairsAtOnce, kMostCounts / num_experts, int64_t{kOrderThreads / 32}}));
  launch("order of experts", order_kernel, dim3(1), dim3(kOrderThreads), 0, stream, order);
  if (tiles.gathered) {
    launch("rows of experts", gather_kernel, dim3(static_cast<unsigned>(8 * stream.device().num_multiprocessors)),
           dim3(256), 0, stream, args.x.as<const uint4>(), args.x.strides[0] / 8, scratch.token_of, num_rows,
           static_cast<int>(width / 8), reinterpret_cast<uint4*>(scratch.outputs));
    first.x = scratch.outputs;
    first.x_stride = width;
    first.num_x_rows = num_rows;
    first.x_rows = nullptr;
  }
  if (tiles.fit) {
    multiply_tiles(first, dtype, tiles.rows, args.top_k, stream);
    multiply_tiles(second, dtype, tiles.rows, args.top_k, stream);
  } else {
    multiply_plain(first, dtype, up.dtype, dtype, stream);
    multiply_plain(second, dtype, down.dtype, DType::kFloat32, stream);
  }

  JoinArgs sum{.outputs = scratch.outputs,
               .row_of = scratch.row_of,
               .weights = args.weights,
               .top_k = args.top_k,
               .width = static_cast<int32_t>(width),
               .residual = nullptr,
               .residual_stride = 0,
               .out = args.out.data,
               .out_stride = args.out.strides[0]};
  if (args.residual) {
    sum.residual = args.residual.as<const float>();
    sum.residual_stride = args.residual.strides[0];
  }
  if (width % 4 == 0 && aligned(args.out) && (!args.residual || aligned(args.residual))) {
    join<4>(sum, args.out.dtype, num_tokens, stream);
  } else {
    join<1>(sum, args.out.dtype, num_tokens, stream);
  }
}

}  // namespace quire::gpu
