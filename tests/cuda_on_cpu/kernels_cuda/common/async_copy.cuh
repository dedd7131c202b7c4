// In the place of kernels_cuda/common/async_copy.cuh, which says what these do.
//
// Addresses of shared memory: that of the size that a launch gives begins at 1024, as some kernels need its place in 18
// bits; the rest, which lies where a thread of the processor has its variables, further on. Bits from 28 on: which
// block of a cluster, plus one, if it is not this thread's.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace quire::gpu {

constexpr uint32_t kDynamicBegin = 1024, kDynamicEnd = 1 << 18, kStaticMiddle = 1 << 27;
constexpr int kAddressBits = 28;
inline thread_local std::byte static_anchor;

inline uint32_t shared_address(const void* pointer) {
  const auto* const at = static_cast<const std::byte*>(pointer);
  const ptrdiff_t offset = at - gpu_on_cpu::dynamic_memory();
  if (offset >= 0 && offset <= static_cast<ptrdiff_t>(gpu_on_cpu::kMostSharedBytes)) {
    return kDynamicBegin + static_cast<uint32_t>(offset);
  }
  const ptrdiff_t distance = at - &static_anchor;
  if (distance <= -ptrdiff_t{kStaticMiddle / 2} || distance >= ptrdiff_t{kStaticMiddle / 2}) {
    gpu_on_cpu::fail("takes other memory for shared memory");
  }
  return static_cast<uint32_t>(kStaticMiddle + distance);
}

/// shared_address() of the same place in another block of the cluster.
inline uint32_t shared_address_in(uint32_t address, uint32_t number) {
  return (address & ((1u << kAddressBits) - 1)) | (number + 1) << kAddressBits;
}

inline std::byte* shared_pointer(uint32_t address) {
  const uint32_t block = address >> kAddressBits, place = address & ((1u << kAddressBits) - 1);
  std::byte* const dynamic = block == 0 ? gpu_on_cpu::dynamic_memory() : gpu_on_cpu::dynamic_memory_of(block - 1);
  if (place < kDynamicEnd) return dynamic + place - kDynamicBegin;
  if (block != 0) gpu_on_cpu::fail("reaches for another block's static memory");
  // As a number: it leads out of the anchor.
  return reinterpret_cast<std::byte*>(reinterpret_cast<uintptr_t>(&static_anchor) + place - kStaticMiddle);
}

inline void async_copy_16(void* shared, const void* global, bool valid = true) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 || reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    gpu_on_cpu::fail("copies 16 bytes from or to a place between");
  }
  gpu_on_cpu::copy_sometime(
      [=] { *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{0, 0, 0, 0}; });
}
inline void async_copy_16(void* shared, const void* global, bool valid, uint64_t) {
  async_copy_16(shared, global, valid);
}
inline void async_copy_commit() {
  gpu_on_cpu::end_group();
}
template <int kPending>
void async_copy_wait() {
  gpu_on_cpu::wait_for_groups(kPending);
}

inline void fence_for_copies() {}

}  // namespace quire::gpu
