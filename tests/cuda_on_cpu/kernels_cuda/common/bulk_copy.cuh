// In the place of kernels_cuda/common/bulk_copy.cuh, which says what these do.
//
// A barrier's 8 bytes: arrivals that it waits for (20 bits), arrivals that make a phase (20), the parity of the phase
// (1), bytes that it waits for (23, signed).
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstdint>
#include <cstring>

#include "kernels_cuda/common/async_copy.cuh"

namespace quire::gpu {

constexpr int kArrivalBits = 20, kParityBit = 2 * kArrivalBits, kBytesBit = kParityBit + 1;

inline std::atomic_ref<uint64_t> barrier_state(uint32_t barrier) {
  return std::atomic_ref(*reinterpret_cast<uint64_t*>(shared_pointer(barrier)));
}

/// Count arrivals, and bytes that come (negative) or are to be waited for.
inline void barrier_change(uint32_t barrier, unsigned arrivals, int64_t bytes) {
  constexpr uint64_t kArrivals = (uint64_t{1} << kArrivalBits) - 1;
  const auto state = barrier_state(barrier);
  uint64_t before = state.load(), after = 0;
  do {
    if ((before & kArrivals) < arrivals) gpu_on_cpu::fail("arrives at a barrier too often");
    const uint64_t waited = (before & kArrivals) - arrivals, all = before >> kArrivalBits & kArrivals;
    const int64_t waited_bytes = (static_cast<int64_t>(before) >> kBytesBit) + bytes;
    const uint64_t parity = before >> kParityBit & 1;
    after = waited == 0 && waited_bytes == 0 ? all | all << kArrivalBits | (parity ^ 1) << kParityBit
                                             : waited | all << kArrivalBits | parity << kParityBit |
                                                   static_cast<uint64_t>(waited_bytes) << kBytesBit;
  } while (!state.compare_exchange_weak(before, after));
}

inline void barrier_init(uint32_t barrier, unsigned arrivals) {
  barrier_state(barrier).store(arrivals | uint64_t{arrivals} << kArrivalBits);
}
inline void barrier_expect(uint32_t barrier, unsigned bytes) {
  barrier_change(barrier, 0, bytes);
  barrier_change(barrier, 1, 0);
}
inline void barrier_arrive(uint32_t barrier) {
  barrier_change(barrier, 1, 0);
}
inline void barrier_wait(uint32_t barrier, unsigned parity) {
  while ((barrier_state(barrier).load() >> kParityBit & 1) == parity) gpu_on_cpu::poll();
}

inline void bulk_copy(uint32_t to, const void* from, unsigned bytes, uint32_t barrier) {
  if (to % 16 != 0 || reinterpret_cast<uintptr_t>(from) % 16 != 0 || bytes % 16 != 0) {
    gpu_on_cpu::fail("copies from, to, or as far as a place between 16 bytes");
  }
  gpu_on_cpu::do_sometime([=] {
    std::memcpy(shared_pointer(to), from, bytes);
    barrier_change(barrier, 0, -int64_t{bytes});
  });
}
inline void bulk_copy(uint32_t to, const void* from, unsigned bytes, uint32_t barrier, uint64_t) {
  bulk_copy(to, from, bytes, barrier);
}
inline uint64_t read_once_policy() {
  return 0;
}

constexpr bool kBulkCopies = true;

}  // namespace quire::gpu
