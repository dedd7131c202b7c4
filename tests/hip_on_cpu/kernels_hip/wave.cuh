// A wave of QUIRE_HIP_WAVE lanes on the CPU, in the place of kernels_hip/wave.cuh. What a warp asks of the other half
// of a wave of 64, which on AMD's hardware may be elsewhere, is answered with noise in a ballot and ends the process in
// a read. active() knows of this lane alone, as if all had parted ways.
#pragma once

#include <hip/hip_runtime.h>

#include <cstdint>
#include <cstring>

namespace quire::gpu {

static_assert(QUIRE_HIP_WAVE == 32 || QUIRE_HIP_WAVE == 64);

struct Wave {
  static int lane() { return gpu_on_cpu::thread_number() % QUIRE_HIP_WAVE; }

  template <typename T>
  static T read(T value, int from, uint32_t lanes) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    if (from / 32 != lane() / 32) gpu_on_cpu::fail("reads a lane of the other warp");
    if (is_alone(lanes)) return value;
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(value));
    bits = gpu_on_cpu::bring_together(bits)[from % 32][0];
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  static uint64_t ballot(bool vote, uint32_t lanes) {
    const uint32_t own = uint32_t{vote} << lane() % 32;
    if (is_alone(lanes)) return in_own_half(own);
    uint32_t votes = 0;
    for (const auto& one : gpu_on_cpu::bring_together(own)) votes |= static_cast<uint32_t>(one[0]);
    return in_own_half(votes);
  }

  static uint64_t active() { return in_own_half(1u << lane() % 32); }
  static int lowest(uint32_t lanes) { return __ffs(static_cast<int>(lanes)) - 1; }
  static void sync() { gpu_on_cpu::sync_lanes(32); }
  static void sync_both_halves() { gpu_on_cpu::sync_lanes(64); }

 private:
  /// All of the warp come along, or this lane only: active() says nothing else.
  static bool is_alone(uint32_t lanes) {
    if (lanes == 0xffffffffu) return false;
    if (lanes != 1u << lane() % 32) gpu_on_cpu::fail("asks some lanes of a warp");
    return true;
  }

  static uint64_t in_own_half(uint32_t votes) {
    if (QUIRE_HIP_WAVE == 32) return votes;
    const uint32_t noise = (votes ^ 0xb5297a4du) * 0x9e3779b9u;
    return lane() < 32 ? uint64_t{noise} << 32 | votes : uint64_t{votes} << 32 | noise;
  }
};

inline float load_past_l1(const float* memory) {
  return *memory;
}

}  // namespace quire::gpu
