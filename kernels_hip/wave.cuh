// What AMD's compiler calls by names of its own: the lanes of a wave (warp.h says what is asked of them), and loads.
#pragma once

#include <hip/hip_runtime.h>

#include <cstdint>

namespace quire::gpu {

struct Wave {
  __device__ static int lane() { return static_cast<int>(__lane_id()); }

  template <typename T>
  __device__ static T read(T value, int lane, uint32_t) {
    return __shfl(value, lane);
  }

  /// Lanes that are elsewhere vote no.
  __device__ static uint64_t ballot(bool vote, uint32_t) { return __ballot(vote ? 1 : 0); }
  __device__ static uint64_t active() { return __ballot(1); }

  __device__ static int lowest(uint32_t lanes) { return static_cast<int>(__ffs(static_cast<int>(lanes))) - 1; }

  /// Lanes go in step: only the compiler must not move memory accesses across.
  __device__ static void sync() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
  }
};

__device__ inline float load_past_l1(const float* memory) {
  return __builtin_nontemporal_load(memory);
}

}  // namespace quire::gpu
