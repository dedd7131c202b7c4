// Which queries a block computes.
#pragma once

#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

/// The rows of a block, and their sequence.
struct QueryTile {
  int row;    ///< the first; -1: there is no such tile
  int token;  ///< the sequence's first in the batch
  int queries;
  int context;
  int table;  ///< where its blocks begin
};

/// By all kThreads threads of a block, with barriers: the `wanted`-th tile of all sequences; of a sequence the last
/// tile, which sees most keys, comes first.
template <int kThreads>
__device__ QueryTile find_tile(const AttentionProblem& problem, int rows, bool single_queries_too, int wanted) {
  __shared__ int totals[kThreads / 32];
  __shared__ QueryTile found;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) found.row = -1;
  int before = 0;
  for (int base = 0; base < problem.num_sequences; base += kThreads) {
    const int s = base + static_cast<int>(threadIdx.x);
    QueryTile own{};
    if (s < problem.num_sequences) {
      own = {0, problem.query_start[s], problem.query_start[s + 1], problem.context_lens[s], problem.block_starts[s]};
      own.queries -= own.token;
    }
    const bool wants = own.context > 0 && (own.queries > 1 || single_queries_too);
    const int tiles = wants ? (own.queries * problem.group + rows - 1) / rows : 0;
    int end = tiles;
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = shuffle_up(end, offset);
      if (lane >= offset) end += other;
    }
    __syncthreads();
    if (lane == 31) totals[warp] = end;
    __syncthreads();
    int all = 0;
    for (int w = 0; w < kThreads / 32; ++w) {
      if (w < warp) end += totals[w];
      all += totals[w];
    }
    const int place = wanted - (before + end - tiles);
    if (place >= 0 && place < tiles) {
      own.row = (tiles - 1 - place) * rows;
      found = own;
    }
    before += all;
    if (wanted < before) break;
  }
  __syncthreads();
  return found;
}

}  // namespace quire::gpu
