// What the lanes of a warp do together. Who is here at the same time is not known: __activemask() knows of this lane
// alone, as if all had parted ways, and masks are all lanes or this one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "gpu_on_cpu/block.h"

inline int lane_number() {
  return gpu_on_cpu::thread_number() % 32;
}

inline bool is_alone(uint32_t lanes) {
  if (lanes == 0xffffffffu) return false;
  if (lanes != 1u << lane_number()) gpu_on_cpu::fail("asks some lanes of a warp");
  return true;
}

inline uint32_t __activemask() {
  return 1u << lane_number();
}
inline void __syncwarp(uint32_t lanes = 0xffffffffu) {
  if (!is_alone(lanes)) gpu_on_cpu::sync_lanes(32);
}

template <typename T>
T __shfl_sync(uint32_t lanes, T value, int from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  if (is_alone(lanes)) return value;
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  bits = gpu_on_cpu::bring_together(bits)[from % 32][0];
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
template <typename T>
T __shfl_xor_sync(uint32_t lanes, T value, int mask) {
  return __shfl_sync(lanes, value, lane_number() ^ mask);
}
template <typename T>
T __shfl_up_sync(uint32_t lanes, T value, unsigned offset) {
  const int lane = lane_number(), from = lane - static_cast<int>(offset);
  return __shfl_sync(lanes, value, from < 0 ? lane : from);
}
template <typename T>
T __shfl_down_sync(uint32_t lanes, T value, unsigned offset) {
  const int lane = lane_number(), from = lane + static_cast<int>(offset);
  return __shfl_sync(lanes, value, from > 31 ? lane : from);
}

inline uint32_t __ballot_sync(uint32_t lanes, int vote) {
  const uint32_t own = uint32_t{vote != 0} << lane_number();
  if (is_alone(lanes)) return own;
  uint32_t votes = 0;
  for (const auto& one : gpu_on_cpu::bring_together(own)) votes |= static_cast<uint32_t>(one[0]);
  return votes;
}
inline int __any_sync(uint32_t lanes, int vote) {
  return __ballot_sync(lanes, vote) != 0;
}
inline int __all_sync(uint32_t lanes, int vote) {
  return __ballot_sync(lanes, vote) == lanes;
}
inline uint32_t __match_any_sync(uint32_t lanes, int value) {
  if (is_alone(lanes)) return lanes;
  uint32_t like = 0;
  const auto& values = gpu_on_cpu::bring_together(static_cast<uint32_t>(value));
  for (int i = 0; i < 32; ++i) like |= uint32_t{values[i][0] == static_cast<uint32_t>(value)} << i;
  return like;
}
inline uint32_t __match_all_sync(uint32_t lanes, int value, int* alike) {
  *alike = __match_any_sync(lanes, value) == lanes;
  return *alike != 0 ? lanes : 0;
}
inline uint32_t __reduce_max_sync(uint32_t lanes, uint32_t value) {
  if (is_alone(lanes)) return value;
  for (const auto& one : gpu_on_cpu::bring_together(value)) value = std::max(value, static_cast<uint32_t>(one[0]));
  return value;
}

template <typename T>
T __ldcg(const T* memory) {
  return *memory;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t bytes = uint64_t{high} << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t which = selector >> 4 * i & 0xf;
    if (which > 7) gpu_on_cpu::fail("repeats a sign");
    result |= static_cast<uint32_t>(bytes >> 8 * which & 0xff) << 8 * i;
  }
  return result;
}
