// out[t, n] = act(sum_k x[t, k] * weight[n, k] + bias[n]) + residual[t, n] for few t: every weight is read once, and
// that read is the limit. A single x may be the norm of a float32 row, made by every block for itself.
//
// One block of 8 warps per multiprocessor has an equal share of the rows n, and takes 16 or 32 of them at a time: warp
// w has every 8th piece of 64 or 32 columns. Weights are operand a of m16n8k16, tokens operand b. The order of columns
// inside a product is free as long as both operands have the same, so a lane takes 8 neighbours of its row (16 bytes)
// where the instruction speaks of pairs 8 apart: weights need no shuffling.
//
// Each lane has a ring of its own in shared memory, which it alone fills (cp.async) and reads: no barriers but one for
// every tile of rows, where the warps' sums are added. Several tokens come through the rings as the weights do; one
// lies in shared memory as a whole. The rings are filled before the wait for the previous kernel, and two blocks fit a
// multiprocessor, so the next kernel's weights are under way while this one ends.
#include <algorithm>
#include <limits>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/gemm/stream_rows.h"

namespace quire::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kMaxTokens = 8;
/// A slot of a warp's ring: 16 bytes of each lane, four times.
constexpr int kSlotVectors = 4 * 32;

enum class OutType { kFloat32, kSame };

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
  int units;           ///< rows, or pairs of rows if gated
  int64_t second_row;  ///< of the second half of 16 lines, relative to the first: 8, or to the partners if gated
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  bool has_activation;
  ActivationRule rule;
  void* out;
  OutType out_type;
  int64_t out_stride;
};

/// kTiles: groups of 16 lines that a warp takes at once. kXInRing: x comes through the rings.
template <int kTilesOf, bool kXInRingOf, int kSlotsOf>
struct Form {
  static constexpr int kTiles = kTilesOf;
  static constexpr bool kXInRing = kXInRingOf;
  static constexpr int kSlots = kSlotsOf;
  static constexpr int kHalves = 2 / kTiles;             ///< pieces of 32 columns in a slot
  static constexpr int kStepColumns = kHalves * 32;      ///< of a warp
  static constexpr int kStride = kWarps * kStepColumns;  ///< columns between a warp's steps
  static constexpr int kXVectors = kXInRing ? kHalves * 32 : 0;
  static constexpr int kSums = kWarps * kTiles * 4 * 32;
  static constexpr int kRingVectors = kSlots * (kSlotVectors + kXVectors);

  /// Rings, sums of the warps (twice, for two tiles in turn), x.
  static constexpr size_t kFixedBytes = sizeof(uint4) * kWarps * kRingVectors + sizeof(float) * 2 * kSums;
};

/// A weight is read once: whatever else the cache holds is worth more.
__device__ inline uint64_t weight_policy() {
  uint64_t policy = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
#endif
  return policy;
}

/// 16 bytes of weights, or zeros without a read.
__device__ inline void copy_weights(void* shared, const void* global, bool valid, uint64_t policy) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "l"(policy)
               : "memory");
#endif
}

/// What a lane asks for, in the order in which it is used: step after step of a tile, tile after tile.
template <typename T, typename F>
class Reader {
 public:
  __device__ Reader(const Params& params, int begin, int end, int steps, uint4* ring)
      : params_(params), end_(end), steps_(steps), unit_(begin), x_unit_(begin), ring_(ring), policy_(weight_policy()) {
    const int lane = threadIdx.x % 32;
    first_column_ = static_cast<int>(threadIdx.x) / 32 * F::kStepColumns + lane % 4 * 8;
    if constexpr (F::kXInRing) {
      const int token = lane / 4;
      has_x_ = token < params.tokens;
      x_ = static_cast<const T*>(params.x) + (has_x_ ? token * params.x_stride : 0);
    }
    enter_tile();
  }

  __device__ void ask_weights(int slot) {
    if (steps_ == 0 || unit_ >= end_) return;
    uint4* const to = ring_ + slot * (kSlotVectors + F::kXVectors);
#pragma unroll
    for (int half = 0; half < F::kHalves; ++half) {
      const int column = first_column_ + step_ * F::kStride + half * 32;
      const bool inside = column < params_.k;
#pragma unroll
      for (int i = 0; i < 2 * F::kTiles; ++i) {
        copy_weights(to + (half * 2 * F::kTiles + i) * 32, rows_[i] + (inside ? column : 0), inside && has_row_[i],
                     policy_);
      }
    }
    if (++step_ < steps_) return;
    step_ = 0;
    unit_ += units_per_tile();
    enter_tile();
  }

  /// Tokens that are not there stay as they are in the ring: a column of a product depends on no other.
  __device__ void ask_x(int slot) {
    if (steps_ == 0 || x_unit_ >= end_) return;
    uint4* const to = ring_ + slot * (kSlotVectors + F::kXVectors) + kSlotVectors;
#pragma unroll
    for (int half = 0; half < F::kHalves; ++half) {
      const int column = first_column_ + x_step_ * F::kStride + half * 32;
      const bool inside = column < params_.k;
      if (has_x_) async_copy_16(to + half * 32, x_ + (inside ? column : 0), inside);
    }
    if (++x_step_ < steps_) return;
    x_step_ = 0;
    x_unit_ += units_per_tile();
  }

 private:
  __device__ int units_per_tile() const { return (params_.rule.gated ? 8 : 16) * F::kTiles; }

  __device__ void enter_tile() {
    const T* const weight = static_cast<const T*>(params_.weight);
    const int step = params_.rule.gated ? 8 : 16;
#pragma unroll
    for (int i = 0; i < F::kTiles; ++i) {
      const int first = unit_ + i * step + static_cast<int>(threadIdx.x) % 32 / 4;
      const int second = params_.rule.gated ? first : first + 8;
      has_row_[2 * i] = first < end_;
      has_row_[2 * i + 1] = second < end_;
      rows_[2 * i] = weight + (first < end_ ? first * static_cast<int64_t>(params_.k) : 0);
      rows_[2 * i + 1] = weight + (second < end_ ? (first + params_.second_row) * params_.k : 0);
    }
  }

  const Params& params_;
  const int end_, steps_;
  int unit_, x_unit_;
  int step_ = 0, x_step_ = 0;
  int first_column_;
  uint4* const ring_;
  const uint64_t policy_;
  const T* rows_[2 * F::kTiles];
  bool has_row_[2 * F::kTiles];
  const T* x_ = nullptr;
  bool has_x_ = false;
};

/// 16-byte pieces of a row that a thread keeps.
constexpr int kHeld = 4;

/// A float32 row's norm, rounded to T, into shared memory. What a thread can hold of the norm's weights it loads before
/// the wait for the previous kernel.
class RowNorm {
 public:
  __device__ explicit RowNorm(const Params& params) : params_(params) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) weights_[i] = weight_at(column_of(i));
  }

  /// `room`: 2 * kWarps floats.
  template <typename T>
  __device__ void make(T* x_shared, float* room) const {
    const float size = static_cast<float>(params_.k);
    float4 held[kHeld];
#pragma unroll
    for (int i = 0; i < kHeld; ++i) held[i] = x_at(column_of(i));
    float center = 0.0f;
    if (params_.layer_norm) {
      const float sum = sum_of(held, [](const float4& v) { return (v.x + v.y) + (v.z + v.w); });
      center = total_of(sum, room) / size;
    }
    const float square = sum_of(held, [&](const float4& v) {
      const float x = v.x - center, y = v.y - center, z = v.z - center, w = v.w - center;
      return (x * x + y * y) + (z * z + w * w);
    });
    const float factor = 1.0f / sqrtf(total_of(square, room + kWarps) / size + params_.eps);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) put(x_shared, column_of(i), held[i], weights_[i], center, factor);
    for (int i = kHeld; column_of(i) < params_.k; ++i) {
      put(x_shared, column_of(i), x_at(column_of(i)), weight_at(column_of(i)), center, factor);
    }
  }

 private:
  /// Of the block. `room`: kWarps floats.
  __device__ static float total_of(float value, float* room) {
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) total += room[warp];
    return total;
  }

  __device__ static int column_of(int i) { return (i * kThreads + static_cast<int>(threadIdx.x)) * 4; }

  __device__ float4 x_at(int column) const {
    if (column >= params_.k) return {};
    return *reinterpret_cast<const float4*>(static_cast<const float*>(params_.x) + column);
  }

  __device__ float4 weight_at(int column) const {
    if (column >= params_.k || params_.norm_weight == nullptr) return {1.0f, 1.0f, 1.0f, 1.0f};
    return *reinterpret_cast<const float4*>(params_.norm_weight + column);
  }

  /// `term` of columns behind the end must not count, though they are held as zeros.
  template <typename Term>
  __device__ float sum_of(const float4* held, Term&& term) const {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kHeld; ++i) sum += column_of(i) < params_.k ? term(held[i]) : 0.0f;
    for (int i = kHeld; column_of(i) < params_.k; ++i) sum += term(x_at(column_of(i)));
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

  const Params& params_;
  float4 weights_[kHeld];
};

/// The row x into shared memory, zeros from column k to `padded`.
template <typename T>
__device__ void fetch_row(const Params& params, int padded, T* x_shared) {
  for (int column = threadIdx.x * 8; column < padded; column += kThreads * 8) {
    if (column < params.k && params.has_norm) continue;
    uint4 value = {0, 0, 0, 0};
    if (column < params.k) value = *reinterpret_cast<const uint4*>(static_cast<const T*>(params.x) + column);
    *reinterpret_cast<uint4*>(x_shared + column) = value;
  }
}

template <typename T>
__device__ inline void store(const Params& params, int64_t at, float value) {
  if (params.out_type == OutType::kFloat32) {
    static_cast<float*>(params.out)[at] = value;
  } else {
    static_cast<T*>(params.out)[at] = from_float<T>(value);
  }
}

/// What becomes of the sum of an output, `other` that of its partner.
template <typename T>
__device__ inline void finish(const Params& params, int unit, int token, float value, float other) {
  if (params.bias != nullptr) {
    value += params.bias[unit];
    if (params.rule.gated) other += params.bias[params.units + unit];
  }
  if (params.has_activation) value = activate(params.rule, value, other);
  // The residual may be `out`, whose lines neighbours share: it is not to stay in this multiprocessor's cache.
  if (params.residual != nullptr) value += __ldcg(params.residual + token * params.residual_stride + unit);
  store<T>(params, token * params.out_stride + unit, value);
}

template <typename T, typename F>
__global__ void __launch_bounds__(kThreads, 2) stream_rows_kernel(const Params params) {
  extern __shared__ uint4 shared[];
  float* const sums = reinterpret_cast<float*>(shared + kWarps * F::kRingVectors);
  T* const x_shared = reinterpret_cast<T*>(sums + 2 * F::kSums);

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int begin = static_cast<int>(static_cast<int64_t>(params.units) * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(static_cast<int64_t>(params.units) * (blockIdx.x + 1) / gridDim.x);
  const int all_steps = (params.k + F::kStepColumns - 1) / F::kStepColumns;
  const int steps = (all_steps - warp + kWarps - 1) / kWarps;  // of this warp in each tile
  uint4* const ring = shared + warp * F::kRingVectors + lane;

  Reader<T, F> reader(params, begin, end, steps, ring);
#pragma unroll
  for (int slot = 0; slot < F::kSlots; ++slot) {
    reader.ask_weights(slot);
    async_copy_commit();
  }
  let_next_start();
  if constexpr (F::kXInRing) {
    wait_for_previous();
#pragma unroll
    for (int slot = 0; slot < F::kSlots; ++slot) {
      reader.ask_x(slot);
      async_copy_commit();
    }
  } else if (params.has_norm) {
    const RowNorm norm(params);
    wait_for_previous();
    norm.make(x_shared, sums);
  } else {
    wait_for_previous();
  }
  const T* const x_row = x_shared + warp * F::kStepColumns + lane % 4 * 8;
  if constexpr (!F::kXInRing) {
    fetch_row(params, all_steps * F::kStepColumns, x_shared);
    __syncthreads();
  }

  int slot = 0;
  int parity = 0;
  const int lines = params.rule.gated ? 8 : 16;
  for (int unit = begin; unit < end; unit += lines * F::kTiles) {
    float acc[F::kTiles][4] = {};
    for (int step = 0; step < steps; ++step) {
      async_copy_wait<F::kSlots - 1>();
      const uint4* const from = ring + slot * (kSlotVectors + F::kXVectors);
      uint4 weights[4];
      uint4 x[F::kHalves];
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[i] = from[i * 32];
#pragma unroll
      for (int half = 0; half < F::kHalves; ++half) {
        if constexpr (F::kXInRing) {
          x[half] = from[kSlotVectors + half * 32];
        } else {
          x[half] = *reinterpret_cast<const uint4*>(x_row + step * F::kStride + half * 32);
        }
      }
#pragma unroll
      for (int half = 0; half < F::kHalves; ++half) {
#pragma unroll
        for (int i = 0; i < F::kTiles; ++i) {
          const uint4 first = weights[(half * F::kTiles + i) * 2];
          const uint4 second = weights[(half * F::kTiles + i) * 2 + 1];
          multiply_add<T>(acc[i], {first.x, second.x, first.y, second.y}, x[half].x, x[half].y);
          multiply_add<T>(acc[i], {first.z, second.z, first.w, second.w}, x[half].z, x[half].w);
        }
      }
      reader.ask_weights(slot);
      if constexpr (F::kXInRing) reader.ask_x(slot);
      async_copy_commit();
      slot = slot + 1 == F::kSlots ? 0 : slot + 1;
    }

    float* const tile_sums = sums + parity * F::kSums;
#pragma unroll
    for (int i = 0; i < F::kTiles * 4; ++i) tile_sums[(warp * F::kTiles * 4 + i) * 32 + lane] = acc[i / 4][i % 4];
    __syncthreads();
    // Half of the warps finish a tile, the other half the next.
    if (warp / 4 == parity) {
      const int part = warp % 4;
      const auto sum_of = [&](int i) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += tile_sums[(w * F::kTiles * 4 + i) * 32 + lane];
        return sum;
      };
      const int token = lane % 4 * 2 + part % 2;
#pragma unroll
      for (int i = 0; i < F::kTiles; ++i) {
        const int own_unit = unit + i * lines + lane / 4 + (part >= 2 ? 8 : 0);
        if (token >= params.tokens || own_unit >= end) continue;
        if (!params.rule.gated) {
          finish<T>(params, own_unit, token, sum_of(i * 4 + part), 0.0f);
        } else if (part < 2) {
          finish<T>(params, own_unit, token, sum_of(i * 4 + part), sum_of(i * 4 + part + 2));
        }
      }
    }
    parity ^= 1;
  }
}

/// What the system takes of every block's shared memory.
constexpr size_t kReservedShared = 1024;

template <typename F>
size_t shared_bytes(int64_t k) {
  const int64_t padded = (k + F::kStepColumns - 1) / F::kStepColumns * F::kStepColumns;
  return F::kFixedBytes + (F::kXInRing ? 0 : static_cast<size_t>(padded) * 2);
}

using OneToken = Form<1, false, 6>;
using OneLongToken = Form<1, false, 4>;
using FewTokens = Form<2, true, 4>;
using FewTokensFewRows = Form<1, true, 4>;

template <typename F>
bool fits(int64_t k, size_t room) {
  return shared_bytes<F>(k) + kReservedShared <= room;
}

/// Work(F{}) with the form for this product; false if there is none.
template <typename Work>
bool with_form(int64_t tokens, int64_t units, int64_t k, const Device& device, Work&& work) {
  const size_t all = device.shared_memory_per_block + kReservedShared;
  if (tokens == 1) {
    if (fits<OneToken>(k, all / 2)) {
      work(OneToken{});
      return true;
    }
    if (fits<OneLongToken>(k, all)) {
      work(OneLongToken{});
      return true;
    }
  }
  if (!fits<FewTokens>(k, all) || !fits<FewTokensFewRows>(k, all)) return false;
  if (units <= int64_t{16} * device.num_multiprocessors) {
    work(FewTokensFewRows{});
  } else {
    work(FewTokens{});
  }
  return true;
}

bool aligned(const Tensor& tensor) {
  const int64_t row_bytes = tensor.strides[0] * dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && (tensor.shape[0] == 1 || row_bytes % 16 == 0);
}

bool aligned_vector(const Tensor& tensor) {
  return !tensor || reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
}

template <typename T, typename F>
void launch_as(const Params& params, CudaStream& stream) {
  const auto kernel = stream_rows_kernel<T, F>;
  [[maybe_unused]] static const bool ready = [&] {
    allow_shared_memory(kernel, stream.device().shared_memory_per_block);
    // Blocks of two kernels are on a multiprocessor at once only if both want the same split of its memory.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
          "reserving shared memory");
    return true;
  }();
  const int blocks = std::min(stream.device().num_multiprocessors, params.units);
  launch("linear", kernel, dim3(blocks), dim3(kThreads), shared_bytes<F>(params.k), stream, params);
}

}  // namespace

bool stream_rows_fits(const StreamRows& args, const Device& device) {
  const PackedLinear& weight = *args.weight;
  const int64_t tokens = args.x.shape[0];
  if (device.compute_capability < 80 || args.x.rank != 2) return false;
  if (tokens > (args.norm != nullptr ? 1 : kMaxTokens)) return false;
  if (weight.dtype != DType::kBFloat16 && weight.dtype != DType::kFloat16) return false;
  if (args.x.dtype != (args.norm != nullptr ? DType::kFloat32 : weight.dtype)) return false;
  if (args.out.dtype != DType::kFloat32 && args.out.dtype != weight.dtype) return false;
  if (weight.k % 8 != 0 || weight.n > std::numeric_limits<int>::max() / 2 || !aligned(args.x)) return false;
  if (args.norm != nullptr) {
    if (!aligned_vector(args.norm->weight) || !aligned_vector(args.norm->bias)) return false;
    // The norm wants the whole row.
    if (!fits<OneLongToken>(weight.k, device.shared_memory_per_block + kReservedShared)) return false;
  }
  return with_form(tokens, weight.n, weight.k, device, [](auto) {});
}

void stream_rows(const StreamRows& args, CudaStream& stream) {
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
  params.second_row = params.rule.gated ? params.units : 8;
  params.bias = args.bias.as<const float>();
  params.residual = args.residual.as<const float>();
  params.residual_stride = args.residual.strides[0];
  params.out = args.out.data;
  params.out_type = args.out.dtype == DType::kFloat32 ? OutType::kFloat32 : OutType::kSame;
  params.out_stride = args.out.strides[0];
  with_form(params.tokens, weight.n, weight.k, stream.device(), [&](auto form) {
    if (weight.dtype == DType::kBFloat16) {
      launch_as<BFloat, decltype(form)>(params, stream);
    } else {
      launch_as<Half, decltype(form)>(params, stream);
    }
  });
}

}  // namespace quire::cuda
