// Warps of 32 lanes in waves of 32 or 64: what kernels_cuda/common/vendor.cuh asks for, made of what a wave does.
//
// A wave of 64 carries two warps, its lower and its upper half, which may part ways: a warp reads no lane of the other
// half, and of a ballot of the wave it takes its own 32 bits, for the others' votes may be missing. The wave is a
// parameter, so that tests can put a made-up one in the hardware's place:
//   Wave::lane()                      this thread's lane in the wave
//   Wave::read(value, lane, lanes)    the value of a lane of the wave
//   Wave::ballot(vote, lanes)         bit i: the vote of the wave's lane i; whatever it is, where that does not take
//   part Wave::active()                    bit i: whether the wave's lane i is here; the same
//   Wave::lowest(lanes)               the number of the lowest bit that is set
// `lanes`: those of this warp that come along.
#pragma once

#include <cstdint>

namespace quire::gpu {

template <typename Wave>
struct Warp {
  static constexpr uint32_t kAll = 0xffffffffu;

  /// In the wave, the first lane of this warp.
  __device__ static int begin() { return Wave::lane() / 32 * 32; }
  __device__ static int lane() { return Wave::lane() % 32; }

  template <typename T>
  __device__ static T shuffle(T value, int from, uint32_t lanes = kAll) {
    return Wave::read(value, begin() + from % 32, lanes);
  }
  template <typename T>
  __device__ static T shuffle_xor(T value, int mask) {
    return shuffle(value, lane() ^ mask);
  }
  template <typename T>
  __device__ static T shuffle_up(T value, int offset) {
    return shuffle(value, lane() < offset ? lane() : lane() - offset);
  }

  __device__ static uint32_t ballot(bool vote, uint32_t lanes = kAll) {
    return static_cast<uint32_t>(Wave::ballot(vote, lanes) >> begin()) & lanes;
  }
  __device__ static bool all(bool vote) { return ballot(vote) == kAll; }
  __device__ static uint32_t active_lanes() { return static_cast<uint32_t>(Wave::active() >> begin()); }

  /// Bit by bit, whatever the values are.
  __device__ static uint32_t lanes_like(int value) {
    uint32_t like = kAll;
    for (int bit = 0; bit < 32; ++bit) {
      const bool set = (static_cast<uint32_t>(value) >> bit & 1) != 0;
      const uint32_t votes = ballot(set);
      like &= set ? votes : ~votes;
    }
    return like;
  }

  __device__ static bool all_alike(uint32_t lanes, int value) {
    return ballot(value == shuffle(value, Wave::lowest(lanes), lanes), lanes) == lanes;
  }

  __device__ static uint32_t largest(uint32_t value) {
    for (int mask = 16; mask > 0; mask /= 2) {
      const uint32_t other = shuffle_xor(value, mask);
      value = other > value ? other : value;
    }
    return value;
  }
};

}  // namespace quire::gpu
