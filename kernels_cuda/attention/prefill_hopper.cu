// Attention of many queries on compute capability 9.0: prefill.cu with warpgroup instructions, for heads of 64 and 128.
//
// A block has two warpgroups of 64 rows each, (token, query head) pairs of one sequence and kv head, and a warp that
// copies keys and values, tiles of 128, as far ahead as there is room: a page's rows of 64 components lie in memory
// just as the instructions take them. A warpgroup multiplies the next tile's keys while it sums the last tile's values,
// and makes weights of scores under the sum; the two warpgroups' phases fill each other's gaps. Limited by the tensor
// cores and the exponentials.
//
// A row's result depends on the row alone: its keys are taken in tiles at fixed positions, in order, and a key that it
// does not see adds exact zeros.
#include <cmath>

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/query_tile.cuh"
#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/operand.cuh"
#include "kernels_cuda/gemm/warpgroup_sum.cuh"

namespace quire::gpu {
namespace {

constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kThreads = (kGroups + 1) * 128;
constexpr int kGroupRows = 64;
constexpr int kRows = kGroups * kGroupRows;
constexpr int kKeys = 128;
constexpr int kStages = 2;

template <int kDim>
struct Shape {
  static constexpr int kQBytes = kRows * kDim * 2;
  static constexpr int kTileBytes = kKeys * kDim * 2;  ///< of keys, or of values
  /// The copies' pattern repeats after 1024 bytes of the address.
  static constexpr int kSharedBytes = 1024 + kQBytes + 2 * kStages * kTileBytes;
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

struct Barriers {
  Barrier full[2][kStages];   ///< of keys and of values
  Barrier empty[2][kStages];  ///< every warp arrives
};

/// The part of the warp that copies: tiles [begin, end) of keys and of values.
template <int kDim>
__device__ void copy_tiles(const AttentionProblem& problem, const QueryTile& tile, const std::byte* heads,
                           std::byte* stages, Barriers& barriers, int first_key, int begin, int end) {
  using S = Shape<kDim>;
  const int lane = threadIdx.x % 32;
  const int32_t* const table = problem.block_tables + tile.table;
  const int block_size = problem.layout.block_size;
  const int unit = min(block_size, kCellKeys);  // keys of a page that are copied at once
  const int units = kKeys / unit;
  const auto look_up = [&](int key_tile) {
    const int key = key_tile * kKeys + lane * unit;
    const bool wanted = lane < units && key_tile < end && key < tile.context && key + unit > first_key;
    return wanted ? table[key / block_size] : -1;
  };
  int block = look_up(begin);
  for (int key_tile = begin; key_tile < end; ++key_tile) {
    const int next = look_up(key_tile + 1);
    const int round = (key_tile - begin) / kStages, stage = (key_tile - begin) % kStages;
    const int bytes = __popc(__ballot_sync(0xffffffffu, block >= 0)) * unit * kDim * 2;
    const int own_unit = lane % units, column = lane / units;
    const int own_block = __shfl_sync(0xffffffffu, block, own_unit);
    const int first = block_size < kCellKeys ? 0 : (key_tile * kKeys + own_unit * unit) % block_size;
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      Barrier* const full = &barriers.full[which][stage];
      if (round > 0) wait(&barriers.empty[which][stage], (round - 1) & 1);
      if (lane == 0) arrive_and_expect(full, bytes);
      __syncwarp();
      if (column < kDim / 64 && own_block >= 0) {
        const std::byte* const from =
            heads + own_block * problem.block_bytes + (which * kDim + column * 64) * block_size * 2 + first * 128;
        std::byte* const to =
            stages + (which * kStages + stage) * S::kTileBytes + (column * kKeys + own_unit * unit) * 128;
        bulk_copy(shared_address(to), from, static_cast<unsigned>(unit * 128), shared_address(full));
      }
    }
    block = next;
  }
}

/// One warpgroup's rows.
template <typename T, int kDim>
class Rows {
 public:
  using S = Shape<kDim>;

  __device__ Rows(const AttentionProblem& problem, const QueryTile& tile, int kv_head, int group_row)
      : problem_(problem), tile_(tile), kv_head_(kv_head) {
    const int group = problem.group;
    const int first_position = tile.context - tile.queries;
    const int row = group_row + static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      best_[half] = -INFINITY;
      sum_[half] = 0.0f;
      token_[half] = (row + half * 8) / group;
      head_[half] = kv_head * group + (row + half * 8) % group;
      position_[half] = first_position + min(token_[half], tile.queries - 1);
      slope_[half] = problem.alibi_slopes != nullptr ? problem.alibi_slopes[head_[half]] : 0.0f;
    }
    low_ = first_position + min(group_row / group, tile.queries - 1);
    high_ = first_position + min((group_row + kGroupRows - 1) / group, tile.queries - 1);
    rules_ = problem.softcap > 0.0f || problem.alibi_slopes != nullptr;
    factor_ = rules_ ? kLog2e : problem.scale * kLog2e;
  }

  __device__ int high() const { return high_; }

  /// Turn the scores of a tile of keys into weights, with what the sums so far have to be multiplied by.
  __device__ void weigh(float (&score)[kKeys / 2], int key, float (&shrink)[2]) {
    const int column = threadIdx.x % 4 * 2;
    const bool masked = key + kKeys - 1 > low_ || (problem_.window > 0 && key <= high_ - problem_.window);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (rules_) {
        const float inverse = problem_.softcap > 0.0f ? 1.0f / problem_.softcap : 0.0f;
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) {
          float& s = score[i / 2 * 4 + half * 2 + i % 2];
          s *= problem_.scale;
          if (problem_.softcap > 0.0f) s = soft_limit(s, problem_.softcap, inverse);
          s += slope_[half] * static_cast<float>(key + i / 2 * 8 + column + i % 2 - position_[half]);
        }
      }
      if (masked) {
        const int last = position_[half] - key - column;
        const int first = problem_.window > 0 ? last - problem_.window + 1 : -kKeys;
#pragma unroll
        for (int i = 0; i < kKeys / 4; ++i) {
          const int at = i / 2 * 8 + i % 2;
          if (at > last || at < first) score[i / 2 * 4 + half * 2 + i % 2] = -INFINITY;
        }
      }
      float most = best_[half];
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i) most = fmaxf(most, score[i / 2 * 4 + half * 2 + i % 2]);
      most = quad_max(most);
      // A product of its own in both places: a row whose best score stays must shrink by exactly 1.
      const float base = most == -INFINITY ? 0.0f : __fmul_rn(most, factor_);
      shrink[half] = power_of_two(__fmul_rn(best_[half], factor_) - base);
      best_[half] = most;
      float total = 0.0f;
#pragma unroll
      for (int i = 0; i < kKeys / 4; ++i) {
        float& s = score[i / 2 * 4 + half * 2 + i % 2];
        s = power_of_two(s * factor_ - base);
        total += s;
      }
      sum_[half] = fmaf(sum_[half], shrink[half], total);
    }
  }

  __device__ void store(float (&out)[kDim / 2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float total = quad_sum(sum_[half]);
      if (token_[half] >= tile_.queries) continue;
      float shrink = 1.0f;
      if (problem_.sinks != nullptr) {
        const float sink = problem_.sinks[head_[half]] * kLog2e;
        const float base = __fmul_rn(best_[half], factor_);
        const float most = fmaxf(sink, base);
        shrink = power_of_two(base - most);
        total = total * shrink + power_of_two(sink - most);
      }
      const float scale = shrink / total;
      T* const to = static_cast<T*>(problem_.out) + (tile_.token + token_[half]) * problem_.out_token_stride +
                    head_[half] * problem_.out_head_stride + threadIdx.x % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_pair<T>(out[n * 4 + half * 2] * scale, out[n * 4 + half * 2 + 1] * scale);
      }
    }
  }

 private:
  const AttentionProblem& problem_;
  const QueryTile& tile_;
  int kv_head_;
  float best_[2], sum_[2], slope_[2];
  int token_[2], head_[2], position_[2];
  int low_, high_;  // positions of the warpgroup's first and last row
  bool rules_;
  float factor_;
};

/// A barrier of the threads of one warpgroup.
__device__ inline void group_barrier(int group) {
  named_barrier<128>(group + 1);
}

/// Values that nobody sees may be anything, and their weight of zero would not help. By one warpgroup: both write the
/// same.
template <int kDim>
__device__ void clear_unseen(std::byte* values, int key, int first_key, int context, int group) {
  if (key >= first_key && key + kKeys <= context) return;
  for (int i = threadIdx.x % 128; i < kKeys * kDim / 8; i += 128) {
    const int row = i / 8 % kKeys;
    if (key + row >= first_key && key + row < context) continue;
    *reinterpret_cast<uint4*>(values + i * kChunkBytes) = make_uint4(0, 0, 0, 0);
  }
  fence_for_copies();
  group_barrier(group);
}

template <typename T, int kDim>
__device__ void multiply_keys(float (&score)[kKeys / 2], uint64_t q, uint64_t keys) {
  WarpgroupProduct<T, kKeys>::template run<false>(score, q, keys);
#pragma unroll
  for (int k = 1; k < kDim / 16; ++k) {
    WarpgroupProduct<T, kKeys>::run(score, q + k / 4 * (kGroupRows * 128 / 16) + k % 4 * 2,
                                    keys + k / 4 * (kKeys * 128 / 16) + k % 4 * 2);
  }
}

template <typename T, int kDim>
__device__ void sum_values(float (&out)[kDim / 2], const uint32_t (&weights)[kKeys / 16][4], uint64_t values) {
#pragma unroll
  for (int k = 0; k < kKeys / 16; ++k) WeightedSum<T, kDim>::run(out, weights[k], values + k * 128);
}

template <typename T>
__device__ void pack_weights(uint32_t (&weights)[kKeys / 16][4], const float (&score)[kKeys / 2]) {
#pragma unroll
  for (int i = 0; i < kKeys / 4; ++i) weights[i / 4][i % 4] = pack_pair<T>(score[2 * i], score[2 * i + 1]);
}

/// The part of a warpgroup that multiplies.
template <typename T, int kDim>
__device__ void attend_rows(const AttentionProblem& problem, const QueryTile& tile, int kv_head, int first_key,
                            int begin, std::byte* shared, std::byte* stages, Barriers& barriers) {
  using S = Shape<kDim>;
  const int group = problem.group;
  const int own_group = static_cast<int>(threadIdx.x) / 128;
  const int group_row = tile.row + own_group * kGroupRows;
  std::byte* const own_q = shared + own_group * kGroupRows * kDim * 2;
  for (int i = threadIdx.x % 128; i < kGroupRows * kDim / 8; i += 128) {
    const int row = i / (kDim / 8), chunk = i % (kDim / 8);
    const int token = (group_row + row) / group, head = kv_head * group + (group_row + row) % group;
    const bool real = token < tile.queries;
    const T* const from = static_cast<const T*>(problem.q) +
                          (tile.token + (real ? token : 0)) * problem.q_token_stride + head * problem.q_head_stride +
                          chunk * 8;
    async_copy_16(own_q + kv_chunk_place(chunk, row, kDim / 8, kGroupRows) * kChunkBytes, from, real);
  }
  async_copy_commit();
  Rows<T, kDim> rows(problem, tile, kv_head, group_row);
  async_copy_wait<0>();
  fence_for_copies();
  group_barrier(own_group);

  // A warpgroup of earlier rows may need a tile less; nobody waits for what it does not release then.
  const int tiles = rows.high() / kKeys + 1 - begin;
  const uint64_t q = operand(own_q);
  const auto keys_of = [&](int i) { return operand(stages + i % kStages * S::kTileBytes); };
  const auto values_at = [&](int i) { return stages + (kStages + i % kStages) * S::kTileBytes; };
  const auto values_of = [&](int i) { return values_operand(shared_address(values_at(i)), kKeys * 128); };
  const auto wait_for = [&](int which, int i) { wait(&barriers.full[which][i % kStages], i / kStages & 1); };
  const auto release = [&](int which, int i) {
    if (threadIdx.x % 32 == 0) arrive(&barriers.empty[which][i % kStages]);
  };

  float out[kDim / 2];
#pragma unroll
  for (int i = 0; i < kDim / 2; ++i) out[i] = 0.0f;
  float score[kKeys / 2];
  float shrink[2];
  uint32_t weights[kKeys / 16][4];

  wait_for(0, 0);
  begin_products();
  multiply_keys<T, kDim>(score, q, keys_of(0));
  commit_products();
  wait_products<0>();
  hold(score);
  release(0, 0);
  rows.weigh(score, begin * kKeys, shrink);
  pack_weights<T>(weights, score);
  for (int i = 1; i < tiles; ++i) {
    wait_for(1, i - 1);
    clear_unseen<kDim>(values_at(i - 1), (begin + i - 1) * kKeys, first_key, tile.context, own_group);
    wait_for(0, i);
    hold(out);
    begin_products();
    multiply_keys<T, kDim>(score, q, keys_of(i));
    commit_products();
    sum_values<T, kDim>(out, weights, values_of(i - 1));
    commit_products();
    wait_products<1>();
    hold(score);
    release(0, i);
    rows.weigh(score, (begin + i) * kKeys, shrink);
    wait_products<0>();
    hold(out);
    release(1, i - 1);
#pragma unroll
    for (int j = 0; j < kDim / 2; ++j) out[j] *= shrink[j / 2 % 2];
    pack_weights<T>(weights, score);
  }
  wait_for(1, tiles - 1);
  clear_unseen<kDim>(values_at(tiles - 1), (begin + tiles - 1) * kKeys, first_key, tile.context, own_group);
  hold(out);
  begin_products();
  sum_values<T, kDim>(out, weights, values_of(tiles - 1));
  commit_products();
  wait_products<0>();
  hold(out);
  rows.store(out);
}

#endif

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(const AttentionProblem problem, const bool single_queries_too) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using S = Shape<kDim>;
  QUIRE_DYNAMIC_SHARED(std::byte, unaligned);
  std::byte* const shared = unaligned + (1024 - shared_address(unaligned) % 1024) % 1024;
  std::byte* const stages = shared + S::kQBytes;
  __shared__ Barriers barriers;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2 * kStages; ++i) {
      init_barrier(&barriers.full[i / kStages][i % kStages], 1);
      init_barrier(&barriers.empty[i / kStages][i % kStages], kGroups * 4);
    }
    publish_barriers();
  }
  fence_for_copies();

  wait_for_previous();
  let_next_start();
  const int kv_head = static_cast<int>(blockIdx.x) % problem.num_kv_heads;
  const QueryTile tile =
      find_tile<kThreads>(problem, kRows, single_queries_too, static_cast<int>(blockIdx.x) / problem.num_kv_heads);
  if (tile.row < 0) return;

  // Positions of the block's first and last row, and the keys that any of them sees.
  const int group = problem.group;
  const int first_position = tile.context - tile.queries;
  const int low = first_position + tile.row / group;
  const int high = first_position + min((tile.row + kRows - 1) / group, tile.queries - 1);
  const int first_key = problem.window > 0 ? max(0, low - problem.window + 1) : 0;
  const int begin = first_key / kKeys;
  const std::byte* const heads = problem.pages + kv_head * problem.head_bytes;
  const int own_group = static_cast<int>(threadIdx.x) / 128;
  if (own_group == kGroups) {
    // Its three idle warps are there to give registers to the others.
    give_registers<40>();
    if (threadIdx.x / 32 == kGroups * 4) {
      copy_tiles<kDim>(problem, tile, heads, stages, barriers, first_key, begin, high / kKeys + 1);
    }
  } else {
    take_registers<232>();
    attend_rows<T, kDim>(problem, tile, kv_head, first_key, begin, shared, stages, barriers);
  }
#endif
}

template <typename T, int kDim>
void run(const AttentionProblem& problem, bool single_queries_too, GpuStream& stream) {
  using S = Shape<kDim>;
  static OncePerDevice prepare;
  prepare([] { allow_shared_memory(hopper_kernel<T, kDim>, S::kSharedBytes); });
  // As many tiles as there can be; where sequences have several queries, fewer of them fill these.
  const int64_t tiles = int64_t{problem.num_tokens} * problem.group / kRows + problem.num_sequences;
  launch("attention", hopper_kernel<T, kDim>, dim3(static_cast<unsigned>(tiles * problem.num_kv_heads)), dim3(kThreads),
         S::kSharedBytes, stream, problem, single_queries_too);
}

}  // namespace

bool hopper_prefill_fits(const AttentionProblem& problem, const Device& device) {
  return device.compute_capability == 90 && (problem.head_dim == 64 || problem.head_dim == 128);
}

void attend_prefill_hopper(const AttentionProblem& problem, DType dtype, bool single_queries_too, GpuStream& stream) {
  const auto run_for = [&](auto type) {
    using T = decltype(type);
    problem.head_dim == 64 ? run<T, 64>(problem, single_queries_too, stream)
                           : run<T, 128>(problem, single_queries_too, stream);
  };
  dtype == DType::kBFloat16 ? run_for(BFloat{}) : run_for(Half{});
}

}  // namespace quire::gpu
