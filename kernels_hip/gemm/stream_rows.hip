// out[t, n] = act(sum_k x[t, k] * weight[n, k] + bias[n]) + residual[t, n] for few t: every weight is read once, and
// that read is the limit, though with 8 tokens, at 11 instructions for a weight, arithmetic is not far. A single x may
// be the norm of a float32 row, made by every block for itself.
//
// A warp has four rows n, or two and their partners if gated, of which a lane takes 8 neighbours (16 bytes) at a time:
// steps of 256 columns. Up to 8 warps of a block, its parts, take the steps of the same rows in turn, the more the
// fewer rows there are. A block goes from one tile of rows to another; the weights of the next step, of the next tile
// too, are under way while those of this one are multiplied.
// x lies in shared memory, token after token: as a whole, or, if there is no room, in pieces of K that are brought anew
// for each tile. A warp is half of a wave of 64 lanes: both halves take the same number of steps.
#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/stream_rows.h"
#include "kernels_hip/common/matrix_core.h"
#include "kernels_hip/gemm/store_run.h"

namespace quire::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxTokens = 8;
constexpr int kRows = 4;  ///< of a warp
constexpr int kLaneColumns = 8;
constexpr int kStepColumns = 32 * kLaneColumns;
/// Steps whose weights are under way at a time.
constexpr int kSlots = 2;
/// Two blocks, with their sums, fit the 64 KiB of a compute unit.
constexpr int kMostXBytes = 30 << 10;
/// The longest row that fits as a whole, however many parts share it.
constexpr int kMostNormColumns = kMostXBytes / 2 / (kSlots * kWarps * kStepColumns) * (kSlots * kWarps * kStepColumns);
/// Most tokens, times parts: so that x of a few steps fits.
constexpr int kMostTokenParts = 16;
/// Of a compute unit: from so many on, more parts do not bring more loads under way than the memory can answer.
constexpr int kBusyWarps = 32;
constexpr int kMostBlocks = 4;

struct Params {
  const void* x;
  int64_t x_stride;
  int tokens;
  int k;
  bool has_norm;
  bool layer_norm;
  float eps;
  const float* norm_weight;
  const float* norm_bias;
  const void* weight;
  int units;        ///< rows, or pairs of rows if gated
  int parts;        ///< a power of two
  int steps;        ///< of each part; this and the next a multiple of kSlots
  int piece_steps;  ///< of these, for which there is x in shared memory at a time
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  bool has_activation;
  ActivationRule rule;
  void* out;
  bool out_is_float32;
  int64_t out_stride;
};

__host__ __device__ inline int warp_units(const Params& params) {
  return params.rule.gated ? kRows / 2 : kRows;
}
__host__ __device__ inline int tile_units(const Params& params) {
  return kWarps / params.parts * warp_units(params);
}
/// Of a token, in shared memory.
__host__ __device__ inline int piece_columns(const Params& params) {
  return params.piece_steps * params.parts * kStepColumns;
}

/// Number i of eight.
template <typename T>
__device__ inline float number(const Chunk& chunk, int i) {
  const auto bits = static_cast<uint16_t>(chunk[i / 2] >> 16 * (i % 2));
  if constexpr (std::is_same_v<T, BFloat>) {
    return to_float(bfloat_of_bits(bits));
  } else {
    return to_float(half_of_bits(bits));
  }
}

/// Brings a lane's weights to registers, in the order in which they are used.
template <typename T>
class Reader {
 public:
  __device__ explicit Reader(const Params& params)
      : params_(params), tile_(static_cast<int>(blockIdx.x)), first_column_(threadIdx.x % (32 * params.parts) * 8) {
    enter_tile();
  }

  /// Of the next step. Behind the end of a row, of the matrix and of all tiles lanes get weights that are there, so
  /// that the compiler can count the loads under way.
  __device__ void load(Chunk (&chunks)[kRows]) {
    const bool ended = tile_ * tile_units(params_) >= params_.units;
    const int column = first_column_ + step_ * params_.parts * kStepColumns;
    const int valid = ended ? 0 : min(column, params_.k - kLaneColumns);
    const T* const weight = static_cast<const T*>(params_.weight);
#pragma unroll
    for (int i = 0; i < kRows; ++i) chunks[i] = load_once(weight + rows_[i] + valid);
    if (++step_ < params_.steps) return;
    step_ = 0;
    tile_ += static_cast<int>(gridDim.x);
    enter_tile();
  }

 private:
  __device__ void enter_tile() {
    const int group = static_cast<int>(threadIdx.x) / (32 * params_.parts);
    const int first_unit = tile_ * tile_units(params_) + group * warp_units(params_);
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const int unit = min(first_unit + (params_.rule.gated ? i % 2 : i), params_.units - 1);
      const int row = unit + (params_.rule.gated && i >= 2 ? params_.units : 0);
      rows_[i] = static_cast<int64_t>(row) * params_.k;
    }
  }

  const Params& params_;
  int tile_;
  int step_ = 0;
  const int first_column_;
  int64_t rows_[kRows];
};

/// A float32 row's norm, rounded to T. A thread keeps two runs of 8 columns and reads what is beyond them again.
template <typename T>
class RowNorm {
 public:
  __device__ explicit RowNorm(const Params& params) : params_(params) {
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      if (column_of(i) < params.k) read(static_cast<const float*>(params.x) + column_of(i), kept_[i]);
    }
  }

  /// `room`: 2 * kWarps floats.
  __device__ void make(T* x_shared, float* room) const {
    const float size = static_cast<float>(params_.k);
    float center = 0.0f;
    if (params_.layer_norm) {
      float sum = 0.0f;
      each([&](int, const Run& run) {
#pragma unroll
        for (int i = 0; i < kLaneColumns; ++i) sum += run[i];
      });
      center = block_sum<kThreads>(sum, room) / size;
    }
    float square = 0.0f;
    each([&](int, const Run& run) {
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) square += (run[i] - center) * (run[i] - center);
    });
    const float factor = 1.0f / sqrtf(block_sum<kThreads>(square, room + kWarps) / size + params_.eps);
    each([&](int column, const Run& run) {
      Run values, weights, biases;
      if (params_.norm_weight != nullptr) read(params_.norm_weight + column, weights);
      if (params_.norm_bias != nullptr) read(params_.norm_bias + column, biases);
#pragma unroll
      for (int i = 0; i < kLaneColumns; ++i) {
        values[i] = (run[i] - center) * factor;
        if (params_.norm_weight != nullptr) values[i] *= weights[i];
        if (params_.norm_bias != nullptr) values[i] += biases[i];
      }
      store_run(x_shared + column, values, kLaneColumns);
    });
  }

 private:
  static constexpr int kKept = 2;
  using Run = float[kLaneColumns];

  __device__ static int column_of(int i) { return (i * kThreads + static_cast<int>(threadIdx.x)) * kLaneColumns; }

  __device__ static void read(const float* from, Run& run) {
    const auto low = *reinterpret_cast<const Vector<float, 4>*>(from);
    const auto high = *reinterpret_cast<const Vector<float, 4>*>(from + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      run[i] = low[i];
      run[4 + i] = high[i];
    }
  }

  template <typename Work>
  __device__ void each(const Work& work) const {
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      if (column_of(i) < params_.k) work(column_of(i), kept_[i]);
    }
    for (int i = kKept; column_of(i) < params_.k; ++i) {
      Run run;
      read(static_cast<const float*>(params_.x) + column_of(i), run);
      work(column_of(i), run);
    }
  }

  const Params& params_;
  float kept_[kKept][kLaneColumns];
};

/// The piece of x from `first` on, zeros for tokens that are not there. What is behind K nobody looks at.
template <typename T, int kTokens>
__device__ void fetch_piece(const Params& params, int first, Chunk* x_shared) {
  const int chunks = piece_columns(params) / kLaneColumns;
  for (int i = static_cast<int>(threadIdx.x); i < chunks; i += kThreads) {
    const int column = first + i * kLaneColumns;
    Chunk loaded[kTokens];
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      const T* const x = static_cast<const T*>(params.x) + t * params.x_stride;
      loaded[t] = load_chunk(x + column, t < params.tokens && column < params.k);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) write_shared(x_shared + t * chunks + i, loaded[t]);
  }
}

/// sums[i * kTokens + t] += x of token t * weights of row i. `x_shared`: the lane's chunk of the first token.
template <typename T, int kTokens>
__device__ inline void multiply_step(float (&sums)[kRows * kTokens], const Chunk (&chunks)[kRows],
                                     const Chunk* x_shared, int token_chunks) {
  float weights[kRows][kLaneColumns];
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) weights[i][k] = number<T>(chunks[i], k);
  }
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    const Chunk x = read_shared(x_shared + t * token_chunks);
#pragma unroll
    for (int k = 0; k < kLaneColumns; ++k) {
      const float value = number<T>(x, k);
#pragma unroll
      for (int i = 0; i < kRows; ++i) sums[i * kTokens + t] = fmaf(weights[i][k], value, sums[i * kTokens + t]);
    }
  }
}

/// The warp's totals of kCount sums: lane l gets that of sum l / (32 / kCount). While there are several, lanes that are
/// kOffset apart give each other one half of theirs, and keep the other.
template <int kOffset = 16, int kCount>
__device__ inline float share_totals(const float (&sums)[kCount]) {
  if constexpr (kOffset == 0) {
    static_assert(kCount == 1);
    return sums[0];
  } else if constexpr (kCount == 1) {
    const float both[1] = {sums[0] + shuffle_xor(sums[0], kOffset)};
    return share_totals<kOffset / 2>(both);
  } else {
    constexpr int kHalf = kCount / 2;
    const bool upper = (threadIdx.x & kOffset) != 0;
    float kept[kHalf];
#pragma unroll
    for (int i = 0; i < kHalf; ++i) {
      // Values, lest an address be chosen: the array would have to be in memory.
      const float low = sums[i], high = sums[kHalf + i];
      kept[i] = (upper ? high : low) + shuffle_xor(upper ? low : high, kOffset);
    }
    return share_totals<kOffset / 2>(kept);
  }
}

/// What becomes of a tile, an output by each thread. `totals`: of all warps, [row][token] of each.
template <typename T, int kTokens>
__device__ void finish_tile(const Params& params, int tile, const float* totals) {
  const int units = tile_units(params);
  const int token = static_cast<int>(threadIdx.x) / units;
  const int own = static_cast<int>(threadIdx.x) % units;
  const int unit = tile * units + own;
  static_assert(kWarps * kRows * kTokens <= kThreads);
  if (token >= params.tokens || unit >= params.units) return;
  const auto total_of = [&](int row) {
    constexpr int kTotals = kRows * kTokens;
    const float* const first = totals + own / warp_units(params) * params.parts * kTotals + row * kTokens + token;
    float total = 0.0f;
    for (int part = 0; part < params.parts; ++part) total += first[part * kTotals];
    return total;
  };
  const int row = own % warp_units(params);
  float value = total_of(row);
  if (params.bias != nullptr) value += params.bias[unit];
  if (params.has_activation) {
    float other = 0.0f;
    if (params.rule.gated) {
      other = total_of(kRows / 2 + row);
      if (params.bias != nullptr) other += params.bias[params.units + unit];
    }
    value = activate(params.rule, value, other);
  }
  // The residual may be `out`, whose lines neighbours share: it is not to stay in this compute unit's cache.
  if (params.residual != nullptr) value += load_past_l1(params.residual + token * params.residual_stride + unit);
  const int64_t at = token * params.out_stride + unit;
  if (params.out_is_float32) {
    static_cast<float*>(params.out)[at] = value;
  } else {
    static_cast<T*>(params.out)[at] = from_float<T>(value);
  }
}

/// Floats of shared memory in front of x: totals of the warps, twice, for two tiles in turn.
__host__ __device__ constexpr int total_floats(int tokens) {
  return 2 * kWarps * kRows * tokens;
}

template <typename T, int kTokens>
__global__ void __launch_bounds__(kThreads, kTokens == 1 ? kMostBlocks : 2) stream_rows_kernel(const Params params) {
  QUIRE_DYNAMIC_SHARED(float, shared);
  constexpr int kTotals = kRows * kTokens;
  Chunk* const x_shared = reinterpret_cast<Chunk*>(shared + total_floats(kTokens));
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int part_chunk = static_cast<int>(threadIdx.x) % (32 * params.parts);
  const int step_chunks = 32 * params.parts;
  const int token_chunks = params.piece_steps * step_chunks;
  const bool in_pieces = params.piece_steps < params.steps;

  Reader<T> reader(params);
  Chunk slots[kSlots][kRows];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) reader.load(slots[i]);
  if (kTokens == 1 && params.has_norm) {
    const RowNorm<T> norm(params);
    norm.make(reinterpret_cast<T*>(x_shared), shared);
  } else if (!in_pieces) {
    fetch_piece<T, kTokens>(params, 0, x_shared);
  }
  __syncthreads();
  int parity = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile * tile_units(params) < params.units;
       tile += static_cast<int>(gridDim.x)) {
    float sums[kTotals] = {};
    int step_of_piece = 0;
    for (int first_step = 0; first_step < params.steps; first_step += kSlots) {
      if (in_pieces && step_of_piece == params.piece_steps) step_of_piece = 0;
      if (in_pieces && step_of_piece == 0) {
        __syncthreads();  // everybody is done with the piece before
        fetch_piece<T, kTokens>(params, first_step * step_chunks * kLaneColumns, x_shared);
        __syncthreads();
      }
#pragma unroll
      for (int i = 0; i < kSlots; ++i) {
        if (((first_step + i) * step_chunks + part_chunk) * kLaneColumns < params.k) {
          multiply_step<T, kTokens>(sums, slots[i], x_shared + (step_of_piece + i) * step_chunks + part_chunk,
                                    token_chunks);
        }
        reader.load(slots[i]);
      }
      step_of_piece += kSlots;
    }
    const float total = share_totals(sums);
    float* const totals = shared + parity * kWarps * kTotals;
    if (lane % (32 / kTotals) == 0) totals[warp * kTotals + lane / (32 / kTotals)] = total;
    __syncthreads();
    finish_tile<T, kTokens>(params, tile, totals);
    parity ^= 1;
  }
}

/// Work(std::integral_constant) with the number of tokens that the kernel is made for.
template <typename Work>
void with_tokens(int tokens, Work&& work) {
  if (tokens == 1) return work(std::integral_constant<int, 1>{});
  if (tokens == 2) return work(std::integral_constant<int, 2>{});
  if (tokens <= 4) return work(std::integral_constant<int, 4>{});
  work(std::integral_constant<int, kMaxTokens>{});
}

int ceil_div(int count, int size) {
  return (count + size - 1) / size;
}

/// How the work is cut.
void divide(Params& params, int most_tokens, const Device& device) {
  const int64_t warps = ceil_div(params.units, warp_units(params));
  params.parts = 1;
  while (params.parts < kWarps && 2 * params.parts * most_tokens <= kMostTokenParts &&
         2 * params.parts * kStepColumns <= params.k &&
         warps * params.parts < int64_t{kBusyWarps} * device.num_multiprocessors) {
    params.parts *= 2;
  }
  const int step_columns = params.parts * kStepColumns;
  const int slots = ceil_div(params.k, kSlots * step_columns);
  const int most_slots = kMostXBytes / (2 * most_tokens * kSlots * step_columns);
  params.steps = kSlots * slots;
  params.piece_steps = kSlots * ceil_div(slots, ceil_div(slots, most_slots));
}

template <typename T, int kTokens>
void launch_as(Params params, GpuStream& stream) {
  const Device& device = stream.device();
  divide(params, kTokens, device);
  const size_t bytes = total_floats(kTokens) * sizeof(float) + size_t{2} * kTokens * piece_columns(params);
  const int at_once = std::clamp<int>(static_cast<int>(device.shared_memory_per_block / bytes), 1, kMostBlocks);
  const int blocks = std::min(ceil_div(params.units, tile_units(params)), at_once * device.num_multiprocessors);
  launch("linear", stream_rows_kernel<T, kTokens>, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), bytes, stream,
         params);
}

bool aligned(const Tensor& tensor) {
  const int64_t row_bytes = tensor.strides[0] * dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && (tensor.shape[0] == 1 || row_bytes % 16 == 0);
}

bool aligned_vector(const Tensor& tensor) {
  return !tensor || reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
}

}  // namespace

bool stream_rows_fits(const StreamRows& args, const Device&) {
  const PackedLinear& weight = *args.weight;
  if (args.x.rank != 2 || args.x.shape[0] > (args.norm != nullptr ? 1 : kMaxTokens)) return false;
  if (weight.dtype != DType::kBFloat16 && weight.dtype != DType::kFloat16) return false;
  if (args.x.dtype != (args.norm != nullptr ? DType::kFloat32 : weight.dtype)) return false;
  if (args.out.dtype != DType::kFloat32 && args.out.dtype != weight.dtype) return false;
  if (weight.k % 8 != 0 || std::max(weight.n, weight.k) > std::numeric_limits<int>::max() / 2) return false;
  if (args.norm == nullptr) return aligned(args.x);
  // The norm wants the whole row.
  return aligned(args.x) && aligned_vector(args.norm->weight) && aligned_vector(args.norm->bias) &&
         weight.k <= kMostNormColumns;
}

void stream_rows(const StreamRows& args, GpuStream& stream) {
  const PackedLinear& weight = *args.weight;
  Params params{};
  params.x = args.x.data;
  params.x_stride = args.x.strides[0];
  params.tokens = static_cast<int>(args.x.shape[0]);
  params.k = static_cast<int>(weight.k);
  params.has_norm = args.norm != nullptr;
  if (params.has_norm) {
    params.layer_norm = args.norm->kind == NormKind::kLayer;
    params.eps = args.norm->eps;
    params.norm_weight = args.norm->weight.as<const float>();
    params.norm_bias = args.norm->bias.as<const float>();
  }
  params.weight = weight.data.data();
  params.has_activation = args.activation != nullptr;
  if (params.has_activation) params.rule = *args.activation;
  params.units = static_cast<int>(params.rule.gated ? weight.n / 2 : weight.n);
  params.bias = args.bias.as<const float>();
  params.residual = args.residual.as<const float>();
  params.residual_stride = args.residual.strides[0];
  params.out = args.out.data;
  params.out_is_float32 = args.out.dtype == DType::kFloat32;
  params.out_stride = args.out.strides[0];
  with_tokens(params.tokens, [&](auto tokens) {
    if (weight.dtype == DType::kBFloat16) {
      launch_as<BFloat, tokens.value>(params, stream);
    } else {
      launch_as<Half, tokens.value>(params, stream);
    }
  });
}

}  // namespace quire::gpu
