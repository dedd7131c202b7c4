// A wave of QUIRE_HIP_WAVE lanes on an NVIDIA GPU, in the place of kernels_hip/wave.cuh. A wave of 64 is two of its
// warps, lanes counted through; what a warp asks of the other half, which on AMD's hardware may be elsewhere, is
// answered with noise in a ballot and ends the kernel in a read.
#pragma once

#include <hip/hip_runtime.h>

#include <cstdint>

namespace quire::gpu {

static_assert(QUIRE_HIP_WAVE == 32 || QUIRE_HIP_WAVE == 64);

struct Wave {
  __device__ static int lane() {
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    return static_cast<int>(thread % QUIRE_HIP_WAVE);
  }

  template <typename T>
  __device__ static T read(T value, int from, uint32_t lanes) {
    if (from / 32 != lane() / 32) __trap();
    return __shfl_sync(lanes, value, from % 32);
  }

  __device__ static uint64_t ballot(bool vote, uint32_t lanes) { return in_own_half(__ballot_sync(lanes, vote)); }
  __device__ static uint64_t active() { return in_own_half(__activemask()); }
  __device__ static int lowest(uint32_t lanes) { return __ffs(static_cast<int>(lanes)) - 1; }
  __device__ static void sync() { __syncwarp(); }
  /// Of a wave of 64 in a block of one dimension.
  __device__ static void sync_both_halves() {
    // The instruction wants the warp together. Barrier 0 is __syncthreads().
    __syncwarp();
    asm volatile("bar.sync %0, 64;" ::"r"(1 + threadIdx.x / 64) : "memory");
  }

 private:
  __device__ static uint64_t in_own_half(uint32_t votes) {
    if (QUIRE_HIP_WAVE == 32) return votes;
    const uint32_t noise = (votes ^ static_cast<uint32_t>(clock())) * 0x9e3779b9u;
    return lane() < 32 ? uint64_t{noise} << 32 | votes : uint64_t{votes} << 32 | noise;
  }
};

__device__ inline float load_past_l1(const float* memory) {
  return __ldcg(memory);
}

}  // namespace quire::gpu
