#pragma once

#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

/// Neighbours of a row of the result, 16 bytes at a time; of those at the matrix's end `count`.
template <typename Out, int kCount>
__device__ inline void store_run(Out* out, const float (&values)[kCount], int count) {
  constexpr int kRun = kCount * sizeof(Out) > 16 ? 16 / sizeof(Out) : kCount;
  if (count < kCount) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (i < count) out[i] = from_float<Out>(values[i]);
    }
    return;
  }
#pragma unroll
  for (int first = 0; first < kCount; first += kRun) {
    Vector<Out, kRun> run;
#pragma unroll
    for (int i = 0; i < kRun; ++i) run[i] = from_float<Out>(values[first + i]);
    *reinterpret_cast<Vector<Out, kRun>*>(out + first) = run;
  }
}

}  // namespace quire::gpu
