// out[t, n] = act(sum_k x[t, k] * weight[n, k] + bias[n]) + residual[t, n] for few t: every weight is read once, and
// that read is the limit. A single x may be the norm of a float32 row, made by every block for itself.
//
// A block of 8 warps takes a tile of 8, 16 or 32 rows n at a time: warp w has every 8th piece of 128, 64 or 32 columns.
// Weights are operand a of m16n8k16, tokens operand b. The order of columns inside a product is free as long as both
// operands have the same, so a lane takes 8 neighbours of its row (16 bytes) where the instruction speaks of pairs 8
// apart: weights need no shuffling.
//
// There is one block per multiprocessor, and those differ by a fifth in how fast they read: behind its first tiles a
// block claims one after the other from a counter in device memory. Which block has a row changes nothing in its sum.
//
// Each lane has a ring of its own in shared memory, which it alone fills (cp.async) and reads: no barriers but one for
// every tile of rows, where the warps' sums are added. Several tokens come through the rings as the weights do; one
// lies in shared memory as a whole. The rings are filled before the wait for the previous kernel, and two blocks fit a
// multiprocessor, so the next kernel's weights are under way while this one ends.
#include <algorithm>
#include <limits>

#include "kernels_cuda/common/bulk_copy.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/mma.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/gemm/row_product.cuh"
#include "kernels_cuda/gemm/stream_rows.h"

namespace quire::gpu {
namespace {

constexpr int kWarps = kRowWarps;
constexpr int kThreads = kRowThreads;
constexpr int kMaxTokens = 8;
/// With several tokens tiles and cuBLASLt read a large matrix faster on compute capability 9.0, and start later, so a
/// small one takes longer; skinny.cu, which came after these figures, does as well as this kernel does. On an H200 a
/// step of Llama-3-8B (34 to 235 MB) with 2, 4 and 8 tokens takes 4.40, 4.35 and 4.51 ms without this kernel, 4.39,
/// 4.44 and 4.52 so, 4.45, 4.49 and 4.54 with it up to 80 MiB; of Llama-3.2-1B (8 to 67 MB) 1.07, 1.08 and 1.08, 1.00,
/// 0.97 and 0.95, 0.99, 1.02 and 1.06.
constexpr int64_t kMostBytesOfSeveral = int64_t{40} << 20;
/// A slot of a warp's ring: 16 bytes of each lane, four times.
constexpr int kSlotVectors = 4 * 32;
/// Most tiles that a block knows of at once.
constexpr int kKnownTiles = 8;

struct Params : RowProduct {
  int own_tiles;     ///< tiles of a block that are its own from the start: enough to fill its rings
  unsigned* claims;  ///< [0] tiles claimed, [1] blocks that claim no more; zero before and after
};

/// kGroups: groups of 8 rows that a warp takes at once, 1, 2 or 4. kXInRing: x comes through the rings.
template <int kGroupsOf, bool kXInRingOf, int kSlotsOf>
struct Form {
  static constexpr int kGroups = kGroupsOf;
  static constexpr bool kXInRing = kXInRingOf;
  static constexpr int kSlots = kSlotsOf;
  static constexpr int kProducts = (kGroups + 1) / 2;    ///< of 16 rows, of which the last 8 may be missing
  static constexpr int kPieces = 4 / kGroups;            ///< of 32 columns in a slot
  static constexpr int kStepColumns = kPieces * 32;      ///< of a warp
  static constexpr int kStride = kWarps * kStepColumns;  ///< columns between a warp's steps
  /// Columns of a warp that follow each other. Of one token 64 always, so that all forms and chain.cu add in one order.
  static constexpr int kRunColumns = kXInRing ? kStepColumns : 64;
  static constexpr int kXVectors = kXInRing ? kPieces * 32 : 0;
  static constexpr int kSums = kWarps * kGroups * 2 * 32;
  static constexpr int kRingVectors = kSlots * (kSlotVectors + kXVectors);

  /// Where a piece lies, counted from the step's first column.
  __device__ static constexpr int column_of(int piece) {
    return piece * 32 / kRunColumns * kWarps * kRunColumns + piece * 32 % kRunColumns;
  }
  /// K with what the last steps look at behind it.
  __host__ __device__ static constexpr int64_t padded(int64_t k) { return (k + kStride - 1) / kStride * kStride; }

  /// Rings, sums of the warps (twice, for two tiles in turn), known tiles; then x.
  static constexpr size_t kFixedBytes =
      sizeof(uint4) * kWarps * kRingVectors + sizeof(float) * 2 * kSums + sizeof(int) * kKnownTiles;
};

/// The tiles of rows that a block takes, one after the other. All its threads know the same.
class Tiles {
 public:
  /// `room`: kKnownTiles of shared memory.
  __device__ Tiles(const Params& params, int units_per_tile, int* room)
      : params_(params), units_per_tile_(units_per_tile), room_(room) {}

  /// First unit of the block's i-th tile; from params.units on: there is none.
  __device__ int first_unit(int i) const { return id(i) * units_per_tile_; }

  /// By one thread, once the previous kernel has ended: claim a tile.
  __device__ int claim() const {
    return params_.own_tiles * static_cast<int>(gridDim.x) + static_cast<int>(atomicAdd(&params_.claims[0], 1u));
  }

  /// By the same thread, before a barrier behind which others ask for the i-th tile.
  __device__ void set(int i, int claimed) const { room_[i % kKnownTiles] = claimed; }

  /// By the same thread, which claims no more.
  __device__ void leave() const {
    if (atomicAdd(&params_.claims[1], 1u) + 1 < gridDim.x) return;
    params_.claims[0] = 0;
    params_.claims[1] = 0;
  }

 private:
  __device__ int id(int i) const {
    const int blocks = static_cast<int>(gridDim.x);
    return i < params_.own_tiles ? static_cast<int>(blockIdx.x) + i * blocks : room_[i % kKnownTiles];
  }

  const Params& params_;
  const int units_per_tile_;
  int* const room_;
};

/// What a lane asks for, in the order in which it is used: step after step of a tile, tile after tile.
template <typename T, typename F>
class Reader {
 public:
  __device__ Reader(const Params& params, const Tiles& tiles, int steps, uint4* ring)
      : params_(params), tiles_(tiles), steps_(steps), ring_(ring), policy_(read_once_policy()) {
    const int lane = threadIdx.x % 32;
    first_column_ = static_cast<int>(threadIdx.x) / 32 * F::kRunColumns + lane % 4 * 8;
    if constexpr (F::kXInRing) {
      const int token = lane / 4;
      has_x_ = token < params.tokens;
      x_ = static_cast<const T*>(params.x) + (has_x_ ? token * params.x_stride : 0);
    }
    enter_tile();
  }

  __device__ void ask_weights(int slot) {
    if (steps_ > 0 && step_ == steps_) {
      step_ = 0;
      ++tile_;
      enter_tile();
    }
    if (ended_) return;
    uint4* const to = ring_ + slot * (kSlotVectors + F::kXVectors);
#pragma unroll
    for (int piece = 0; piece < F::kPieces; ++piece) {
      const int column = first_column_ + step_ * F::kStride + F::column_of(piece);
      const bool inside = column < params_.k;
#pragma unroll
      for (int i = 0; i < F::kGroups; ++i) {
        async_copy_16(to + (piece * F::kGroups + i) * 32, rows_[i] + (inside ? column : 0), inside && has_row_[i],
                      policy_);
      }
    }
    ++step_;
  }

  /// Of the slot for which weights were asked last, or, at the start, from the first slot on. Tokens that are not there
  /// stay as they are in the ring: a column of a product depends on no other.
  __device__ void ask_x(int slot) {
    uint4* const to = ring_ + slot * (kSlotVectors + F::kXVectors) + kSlotVectors;
#pragma unroll
    for (int piece = 0; piece < F::kPieces; ++piece) {
      const int column = first_column_ + x_step_ * F::kStride + F::column_of(piece);
      const bool inside = column < params_.k;
      if (has_x_) async_copy_16(to + piece * 32, x_ + (inside ? column : 0), inside);
    }
    if (++x_step_ == steps_) x_step_ = 0;
  }

 private:
  __device__ void enter_tile() {
    const T* const weight = static_cast<const T*>(params_.weight);
    const int first_unit = tiles_.first_unit(tile_);
    const int line = static_cast<int>(threadIdx.x) % 32 / 4;
    ended_ = steps_ == 0 || first_unit >= params_.units;
#pragma unroll
    for (int i = 0; i < F::kGroups; ++i) {
      const int unit = first_unit + line + (params_.rule.gated ? i / 2 : i) * 8;
      const int row = unit + (params_.rule.gated && i % 2 == 1 ? params_.units : 0);
      has_row_[i] = unit < params_.units;
      rows_[i] = weight + (has_row_[i] ? row * static_cast<int64_t>(params_.k) : 0);
    }
  }

  const Params& params_;
  const Tiles& tiles_;
  const int steps_;
  int tile_ = 0;
  int step_ = 0, x_step_ = 0;
  bool ended_ = false;
  int first_column_;
  uint4* const ring_;
  const uint64_t policy_;
  const T* rows_[F::kGroups];
  bool has_row_[F::kGroups];
  const T* x_ = nullptr;
  bool has_x_ = false;
};

template <typename T, typename F>
__global__ void __launch_bounds__(kThreads, 2) stream_rows_kernel(const Params params) {
  QUIRE_DYNAMIC_SHARED(uint4, shared);
  float* const sums = reinterpret_cast<float*>(shared + kWarps * F::kRingVectors);
  int* const known_tiles = reinterpret_cast<int*>(sums + 2 * F::kSums);
  T* const x_shared = reinterpret_cast<T*>(known_tiles + kKnownTiles);

  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int own_columns = max(params.k - warp * F::kRunColumns, 0);  // from this warp's first to the end
  const int steps = (own_columns + F::kStride - 1) / F::kStride;     // in each tile
  const int units_per_tile = (params.rule.gated ? 4 : 8) * F::kGroups;
  uint4* const ring = shared + warp * F::kRingVectors + lane;

  const Tiles tiles(params, units_per_tile, known_tiles);
  Reader<T, F> reader(params, tiles, steps, ring);
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
      if (steps > 0) reader.ask_x(slot);
      async_copy_commit();
    }
  } else if (params.has_norm) {
    const RowNorm norm(params);
    wait_for_previous();
    norm.make(x_shared, sums, [] { __syncthreads(); }, PlainRow{static_cast<const float*>(params.x), params.k});
  } else {
    wait_for_previous();
  }
  if (threadIdx.x == 0) tiles.set(params.own_tiles, tiles.claim());
  const T* const x_row = x_shared + warp * F::kRunColumns + lane % 4 * 8;
  if constexpr (!F::kXInRing) fetch_row(params, static_cast<int>(F::padded(params.k)), x_shared);
  __syncthreads();

  int slot = 0;
  int parity = 0;
  int unit = tiles.first_unit(0);
  for (int tile = 0; unit < params.units; ++tile) {
    // Its answer is not needed before the tile is done.
    const int claimed = threadIdx.x == 0 ? tiles.claim() : 0;
    float acc[F::kProducts][4] = {};
    for (int step = 0; step < steps; ++step) {
      async_copy_wait<F::kSlots - 1>();
      const uint4* const from = ring + slot * (kSlotVectors + F::kXVectors);
      uint4 weights[4];
      uint4 x[F::kPieces];
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[i] = from[i * 32];
#pragma unroll
      for (int piece = 0; piece < F::kPieces; ++piece) {
        if constexpr (F::kXInRing) {
          x[piece] = from[kSlotVectors + piece * 32];
        } else {
          x[piece] = *reinterpret_cast<const uint4*>(x_row + step * F::kStride + F::column_of(piece));
        }
      }
#pragma unroll
      for (int piece = 0; piece < F::kPieces; ++piece) {
#pragma unroll
        for (int i = 0; i < F::kProducts; ++i) {
          const uint4 first = weights[piece * F::kGroups + i * 2];
          const uint4 second = F::kGroups == 1 ? uint4{} : weights[(piece * F::kGroups + i * 2 + 1) % 4];
          multiply_add<T>(acc[i], {first.x, second.x, first.y, second.y}, x[piece].x, x[piece].y);
          multiply_add<T>(acc[i], {first.z, second.z, first.w, second.w}, x[piece].z, x[piece].w);
        }
      }
      reader.ask_weights(slot);
      if constexpr (F::kXInRing) reader.ask_x(slot);
      async_copy_commit();
      slot = slot + 1 == F::kSlots ? 0 : slot + 1;
    }

    float* const tile_sums = sums + parity * F::kSums;
#pragma unroll
    for (int i = 0; i < F::kGroups * 2; ++i) {
      tile_sums[(warp * F::kGroups * 2 + i) * 32 + lane] = acc[i / 4][i % 4];
    }
    if (threadIdx.x == 0) tiles.set(tile + params.own_tiles + 1, claimed);
    __syncthreads();
    // Half of the warps finish a tile, the other half the next: each two of a lane's four sums of a product.
    if (warp / 4 == parity) {
      const int part = warp % 4;
      const auto sum_of = [&](int i) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += tile_sums[(w * F::kGroups * 2 + i) * 32 + lane];
        return sum;
      };
      const int token = lane % 4 * 2 + part % 2;
#pragma unroll
      for (int i = 0; i < F::kProducts; ++i) {
        if (F::kGroups == 1 && part >= 2) break;
        const int own_unit = unit + (params.rule.gated ? i * 8 : i * 16 + part / 2 * 8) + lane / 4;
        if (token >= params.tokens || own_unit >= params.units) continue;
        const float residual = residual_of(params, own_unit, token);
        if (!params.rule.gated) {
          finish<T>(params, own_unit, token, sum_of(i * 4 + part), 0.0f, residual);
        } else if (part < 2) {
          const float other = sum_of((i * 4 + part + 2) % (F::kGroups * 2));
          finish<T>(params, own_unit, token, sum_of(i * 4 + part), other, residual);
        }
      }
    }
    parity ^= 1;
    unit = tiles.first_unit(tile + 1);
  }
  if (threadIdx.x == 0) tiles.leave();
}

/// What the system takes of every block's shared memory.
constexpr size_t kReservedShared = 1024;

template <typename F>
size_t shared_bytes(int64_t k) {
  return F::kFixedBytes + (F::kXInRing ? 0 : static_cast<size_t>(F::padded(k)) * 2);
}

using OneToken = Form<2, false, 6>;
using OneTokenFewRows = Form<1, false, 6>;
using OneLongToken = Form<2, false, 4>;
using FewTokens = Form<4, true, 4>;
using FewTokensFewRows = Form<2, true, 4>;

/// Tiles of a block from which on it does not matter that the last ones end at different times.
constexpr int kManyTiles = 6;

template <typename F>
bool fits(int64_t k, size_t room) {
  return shared_bytes<F>(k) + kReservedShared <= room;
}

/// Work(F{}) with the form for this product; false if there is none.
template <typename Work>
bool with_form(int64_t tokens, int64_t n, int64_t k, bool gated, const Device& device, Work&& work) {
  const size_t all = device.shared_memory_per_block + kReservedShared;
  const auto many = [&](int rows) { return n >= int64_t{rows} * kManyTiles * device.num_multiprocessors; };
  if (tokens == 1) {
    if (!gated && !many(16) && fits<OneTokenFewRows>(k, all / 2)) {
      work(OneTokenFewRows{});
      return true;
    }
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
  if (many(32)) {
    work(FewTokens{});
  } else {
    work(FewTokensFewRows{});
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
void launch_as(Params params, GpuStream& stream) {
  const auto kernel = stream_rows_kernel<T, F>;
  static OncePerDevice prepare;
  prepare([&] {
    allow_shared_memory(kernel, stream.device().shared_memory_per_block);
    // Blocks of two kernels are on a multiprocessor at once only if both want the same split of its memory.
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
          "reserving shared memory");
  });
  const int units_per_tile = (params.rule.gated ? 4 : 8) * F::kGroups;
  const int tiles = (params.units + units_per_tile - 1) / units_per_tile;
  const int blocks = std::min(stream.device().num_multiprocessors, tiles);
  const int fewest_steps = std::max(params.k / F::kStride, 1);  // of a warp
  params.own_tiles = (F::kSlots + fewest_steps - 1) / fewest_steps;
  static_assert(F::kSlots < kKnownTiles);
  launch("linear", kernel, dim3(blocks), dim3(kThreads), shared_bytes<F>(params.k), stream, params);
}

}  // namespace

bool stream_rows_fits(const StreamRows& args, const Device& device) {
  const PackedLinear& weight = *args.weight;
  const int64_t tokens = args.x.shape[0];
  if (device.compute_capability < 80 || args.x.rank != 2) return false;
  if (tokens > (args.norm != nullptr ? 1 : kMaxTokens)) return false;
  if (tokens > 1 && device.compute_capability == 90 && weight.n * weight.k * 2 > kMostBytesOfSeveral) return false;
  if (weight.dtype != DType::kBFloat16 && weight.dtype != DType::kFloat16) return false;
  if (args.x.dtype != (args.norm != nullptr ? DType::kFloat32 : weight.dtype)) return false;
  if (args.out.dtype != DType::kFloat32 && args.out.dtype != weight.dtype) return false;
  if (weight.k % 8 != 0 || weight.n > std::numeric_limits<int>::max() / 2 || !aligned(args.x)) return false;
  if (args.norm != nullptr) {
    if (!aligned_vector(args.norm->weight) || !aligned_vector(args.norm->bias)) return false;
    // The norm wants the whole row.
    if (!fits<OneLongToken>(weight.k, device.shared_memory_per_block + kReservedShared)) return false;
  }
  const bool gated = args.activation != nullptr && args.activation->gated;
  return with_form(tokens, weight.n, weight.k, gated, device, [](auto) {});
}

void stream_rows(const StreamRows& args, GpuStream& stream) {
  const PackedLinear& weight = *args.weight;
  Params params{row_product(args)};
  params.claims = stream.resources().counters;
  with_form(params.tokens, weight.n, weight.k, params.rule.gated, stream.device(), [&](auto form) {
    if (weight.dtype == DType::kBFloat16) {
      launch_as<BFloat, decltype(form)>(params, stream);
    } else {
      launch_as<Half, decltype(form)>(params, stream);
    }
  });
}

}  // namespace quire::gpu
