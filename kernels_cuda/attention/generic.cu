// Attention in any type and width, in float32 arithmetic.
//
// A block has one token and up to four query heads of one kv head. Keys are taken in tiles of 128, one per thread, for
// the scores; values by component, up to five per thread. A row's keys are cut into at most 16 parts, at places that
// depend on its position (and window) alone, whose softmax sums are joined in order: by one block that computes them
// one after the other, or, where rows are few, by the last of the blocks that compute a part each. Both give the same
// bits. Limited by loads and fused multiply-adds.
#include <algorithm>
#include <cmath>

#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/common/reduce.cuh"

namespace quire::gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kTile = kThreads;  // keys
constexpr int kMaxParts = 16;
constexpr int kMinPartKeys = 4 * kTile;
constexpr int kColumns = 5;  // of values, per thread
constexpr int kMaxDim = kColumns * kThreads;
constexpr int kMaxSplitBlocks = 512;

/// Where a row's parts begin and end.
struct Parts {
  int begin;  ///< first key of the first, a multiple of the tile
  int keys;   ///< of a part, also a multiple
  int count;
};

__device__ Parts parts_of(int first_key, int position) {
  const int begin = first_key / kTile * kTile;
  const int tiles = (position + 1 - begin + kTile - 1) / kTile;
  const int keys = max((tiles + kMaxParts - 1) / kMaxParts * kTile, kMinPartKeys);
  return {begin, keys, (position + 1 - begin + keys - 1) / keys};
}

__device__ float load_as_float(const void* data, DType dtype, int64_t i) {
  if (dtype == DType::kFloat32) return static_cast<const float*>(data)[i];
  if (dtype == DType::kBFloat16) return to_float(static_cast<const BFloat*>(data)[i]);
  return to_float(static_cast<const Half*>(data)[i]);
}

__device__ void store_float(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::kFloat32) {
    static_cast<float*>(data)[i] = value;
  } else if (dtype == DType::kBFloat16) {
    static_cast<BFloat*>(data)[i] = from_float<BFloat>(value);
  } else {
    static_cast<Half*>(data)[i] = from_float<Half>(value);
  }
}

/// Sums of the softmax over some keys; of a thread's columns the values.
template <int kHeads>
struct Sums {
  float best[kHeads];
  float total[kHeads];
  float out[kHeads][kColumns];

  __device__ void clear() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      best[h] = -INFINITY;
      total[h] = 0.0f;
#pragma unroll
      for (int i = 0; i < kColumns; ++i) out[h][i] = 0.0f;
    }
  }

  /// Of keys behind these.
  __device__ void join(const Sums& other) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const float most = fmaxf(best[h], other.best[h]);
      const float base = most == -INFINITY ? 0.0f : most;
      const float own = expf(best[h] - base), others = expf(other.best[h] - base);
      total[h] = fmaf(total[h], own, __fmul_rn(other.total[h], others));
#pragma unroll
      for (int i = 0; i < kColumns; ++i) out[h][i] = fmaf(out[h][i], own, __fmul_rn(other.out[h][i], others));
      best[h] = most;
    }
  }
};

template <typename Cache, int kHeads>
__global__ void __launch_bounds__(kThreads)
    generic_kernel(const AttentionProblem problem, const DType dtype, const int head_blocks, const bool split) {
  constexpr int kElements = kChunkBytes / sizeof(Cache);
  using Chunk = Vector<Cache, kElements>;
  __shared__ float q[kHeads][kMaxDim];
  __shared__ float weights[kTile][kHeads];
  __shared__ float reduced[kHeads][kThreads / 32];
  __shared__ int own_sequence;
  __shared__ unsigned arrived;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;

  wait_for_previous();
  let_next_start();
  const int kv_head = static_cast<int>(blockIdx.x) % (problem.num_kv_heads * head_blocks) / head_blocks;
  const int first_in_group = static_cast<int>(blockIdx.x) % head_blocks * kHeads;
  const int token = static_cast<int>(blockIdx.x) / (problem.num_kv_heads * head_blocks);
  const int heads = min(kHeads, problem.group - first_in_group);
  const int first_head = kv_head * problem.group + first_in_group;
  if (thread == 0) own_sequence = -1;
  __syncthreads();
  for (int s = thread; s < problem.num_sequences; s += kThreads) {
    if (problem.query_start[s] <= token && token < problem.query_start[s + 1]) own_sequence = s;
  }
  __syncthreads();
  const int sequence = own_sequence;
  if (sequence < 0) return;
  const int context = problem.context_lens[sequence];
  const int position = context - problem.query_start[sequence + 1] + token;
  if (position < 0) return;
  const int first_key = problem.window > 0 ? max(0, position - problem.window + 1) : 0;
  const Parts parts = parts_of(first_key, position);
  const int own_part = static_cast<int>(blockIdx.y);
  if (own_part >= parts.count) return;

  for (int i = thread; i < kHeads * kMaxDim; i += kThreads) {
    const int h = i / kMaxDim, d = i % kMaxDim;
    q[h][d] = h < heads && d < problem.head_dim
                  ? load_as_float(problem.q, dtype,
                                  token * problem.q_token_stride + (first_head + h) * problem.q_head_stride + d)
                  : 0.0f;
  }
  __syncthreads();

  const KvLayout& layout = problem.layout;
  const int32_t* const table = problem.block_tables + problem.block_starts[sequence];
  const std::byte* const pages = problem.pages + kv_head * problem.head_bytes;
  const auto page_of = [&](int key) { return pages + table[key / layout.block_size] * problem.block_bytes; };

  const auto scores_of = [&](int key, float(&score)[kHeads]) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) score[h] = -INFINITY;
    if (key < first_key || key > position) return;
    const std::byte* const page = page_of(key);
    const int row = key % layout.block_size;
    float dot[kHeads] = {};
    for (int c = 0; c < layout.key_chunks; ++c) {
      const int place = kv_chunk_place(c, row, layout.key_chunks, layout.block_size);
      const Chunk chunk = *reinterpret_cast<const Chunk*>(page + place * kChunkBytes);
#pragma unroll
      for (int i = 0; i < kElements; ++i) {
        const float k = to_float(chunk[i]);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) dot[h] = fmaf(q[h][c * kElements + i], k, dot[h]);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= heads) break;
      float s = dot[h] * problem.scale;
      if (problem.softcap > 0.0f) s = problem.softcap * tanhf(s / problem.softcap);
      if (problem.alibi_slopes != nullptr)
        s += problem.alibi_slopes[first_head + h] * static_cast<float>(key - position);
      score[h] = s;
    }
  };

  /// The largest or the sum over all threads, for every head.
  const auto reduce = [&](float(&value)[kHeads], auto of_warp, auto of_two) {
    __syncthreads();
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      value[h] = of_warp(value[h]);
      if (thread % 32 == 0) reduced[h][warp] = value[h];
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      value[h] = reduced[h][0];
#pragma unroll
      for (int w = 1; w < kThreads / 32; ++w) value[h] = of_two(value[h], reduced[h][w]);
    }
  };

  const auto compute = [&](int part, Sums<kHeads>& sums) {
    sums.clear();
    const int begin = parts.begin + part * parts.keys;
    const int end = min(begin + parts.keys, position + 1);
    for (int tile = begin; tile < end; tile += kTile) {
      float score[kHeads], best[kHeads];
      scores_of(tile + thread, score);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) best[h] = score[h];
      reduce(best, [](float x) { return warp_max(x); }, [](float x, float y) { return fmaxf(x, y); });
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float most = fmaxf(sums.best[h], best[h]);
        const float base = most == -INFINITY ? 0.0f : most;
        const float shrink = expf(sums.best[h] - base);
        const float weight = expf(score[h] - base);
        sums.total[h] = fmaf(sums.total[h], shrink, weight);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) sums.out[h][i] *= shrink;
        sums.best[h] = most;
        weights[thread][h] = weight;
      }
      __syncthreads();
      const int first = max(tile, first_key), last = min(tile + kTile, end);
      for (int key = first; key < last; ++key) {
        const std::byte* const page = page_of(key) + layout.values * kChunkBytes;
        const int row = key % layout.block_size;
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          const int d = i * kThreads + thread;
          if (d >= problem.value_dim) break;
          const int place = kv_chunk_place(d / kElements, row, layout.value_chunks, layout.block_size);
          const float v = to_float(reinterpret_cast<const Cache*>(page + place * kChunkBytes)[d % kElements]);
#pragma unroll
          for (int h = 0; h < kHeads; ++h) sums.out[h][i] = fmaf(weights[key - tile][h], v, sums.out[h][i]);
        }
      }
    }
    reduce(sums.total, [](float x) { return warp_sum(x); }, [](float x, float y) { return x + y; });
  };

  // Of a part in scratch memory, by head: the values, then the largest score and the sum.
  const int part_floats = kHeads * (problem.value_dim + 2);
  float* const scratch = problem.scratch + static_cast<int64_t>(blockIdx.x) * kMaxParts * part_floats;
  const auto transfer = [&](int part, auto copy, Sums<kHeads>& sums) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float* const row = scratch + part * part_floats + h * (problem.value_dim + 2);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int d = i * kThreads + thread;
        if (d < problem.value_dim) copy(row[d], sums.out[h][i]);
      }
      copy(row[problem.value_dim], sums.best[h]);
      copy(row[problem.value_dim + 1], sums.total[h]);
    }
  };

  Sums<kHeads> all, sums;
  all.clear();
  const bool share = split && parts.count > 1;
  for (int part = share ? own_part : 0; part < parts.count; ++part) {
    compute(part, sums);
    if (share) break;
    all.join(sums);
  }
  if (share) {
    transfer(own_part, [](float& memory, float& value) { memory = value; }, sums);
    __threadfence();
    __syncthreads();
    if (thread == 0) arrived = atomicAdd(&problem.counters[blockIdx.x], 1u);
    __syncthreads();
    if (arrived != static_cast<unsigned>(parts.count - 1)) return;
    if (thread == 0) problem.counters[blockIdx.x] = 0;
    __threadfence();
    for (int part = 0; part < parts.count; ++part) {
      transfer(part, [](float& memory, float& value) { value = memory; }, sums);
      all.join(sums);
    }
  }

#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= heads) continue;
    float shrink = 1.0f, total = all.total[h];
    if (problem.sinks != nullptr) {
      const float sink = problem.sinks[first_head + h];
      const float most = fmaxf(sink, all.best[h]);
      shrink = expf(all.best[h] - most);
      total = total * shrink + expf(sink - most);
    }
    const int64_t to = token * problem.out_token_stride + (first_head + h) * problem.out_head_stride;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int d = i * kThreads + thread;
      if (d < problem.value_dim) store_float(problem.out, dtype, to + d, all.out[h][i] * shrink / total);
    }
  }
}

template <typename Cache, int kHeads>
void run(const AttentionProblem& problem, DType dtype, GpuStream& stream) {
  const int head_blocks = (problem.group + kHeads - 1) / kHeads;
  const int64_t blocks = int64_t{problem.num_tokens} * problem.num_kv_heads * head_blocks;
  const int64_t split_bytes =
      blocks * kMaxParts * kHeads * (problem.value_dim + 2) * static_cast<int64_t>(sizeof(float));
  const bool split = blocks <= kMaxSplitBlocks && split_bytes <= static_cast<int64_t>(stream.resources().scratch_bytes);
  launch("attention", generic_kernel<Cache, kHeads>, dim3(static_cast<unsigned>(blocks), split ? kMaxParts : 1),
         dim3(kThreads), 0, stream, problem, dtype, head_blocks, split);
}

}  // namespace

size_t generic_counters() {
  return kMaxSplitBlocks;
}

void attend_generic(const AttentionProblem& problem, DType q_dtype, DType kv_dtype, GpuStream& stream) {
  QUIRE_REQUIRE(problem.head_dim <= kMaxDim && problem.value_dim <= kMaxDim, ErrorKind::kUnsupported,
                "attention on a GPU: head_dim=", problem.head_dim, ", expected at most ", kMaxDim);
  with_type(kv_dtype, [&](auto type) {
    using Cache = decltype(type);
    problem.group == 1 ? run<Cache, 1>(problem, q_dtype, stream) : run<Cache, 4>(problem, q_dtype, stream);
  });
}

}  // namespace quire::gpu
