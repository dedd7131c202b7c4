// Keys and values on their way from pages (kv_layout.h) to registers.
#pragma once

#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_hip/attention/query_rows.h"

namespace quire::gpu {

/// Four keys from `key`, a multiple of four, on: work(i, place in the head of chunk `chunk` of the i-th's keys) for
/// those in [first_key, context). Others nobody sees, but a weight of zero would not silence them if they were not
/// numbers: they are to be zeros. `table`: of the sequence's blocks, whose size is a multiple of four.
template <int kDim, typename Work>
__device__ inline void for_quad(const AttentionProblem& problem, const std::byte* heads, const int32_t* table, int key,
                                int first_key, int context, int chunk, const Work& work) {
  const bool wanted = key < context && key + kQuadKeys > first_key;
  const int block_size = problem.layout.block_size;
  const int block = key / block_size, row = key - block * block_size;
  const auto* const head = reinterpret_cast<const Chunk*>(heads + (wanted ? table[block] : 0) * problem.block_bytes);
#pragma unroll
  for (int i = 0; i < kQuadKeys; ++i) {
    if (wanted && key + i >= first_key && key + i < context) {
      work(i, head + kv_chunk_place(chunk, row + i, kDim / 8, block_size));
    }
  }
}

/// The values of four keys. `heads`: the kv head's part of the first page.
template <int kDim>
__device__ inline void load_values(const AttentionProblem& problem, const std::byte* heads, const int32_t* table,
                                   int key, int first_key, int context, int chunk, Chunk (&values)[kQuadKeys]) {
#pragma unroll
  for (Chunk& value : values) value = Chunk{};
  for_quad<kDim>(problem, heads, table, key, first_key, context, chunk,
                 [&](int i, const Chunk* at) { values[i] = at[problem.layout.values]; });
}

/// The same of keys and values, whose rows are equally wide.
template <int kDim>
__device__ inline void load_quad(const AttentionProblem& problem, const std::byte* heads, const int32_t* table, int key,
                                 int first_key, int context, int chunk, Chunk (&keys)[kQuadKeys],
                                 Chunk (&values)[kQuadKeys]) {
#pragma unroll
  for (int i = 0; i < kQuadKeys; ++i) keys[i] = values[i] = Chunk{};
  for_quad<kDim>(problem, heads, table, key, first_key, context, chunk, [&](int i, const Chunk* at) {
    keys[i] = *at;
    values[i] = at[problem.layout.values];
  });
}

}  // namespace quire::gpu
