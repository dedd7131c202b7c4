// Copies from global to shared memory that do not pass through registers (cp.async, compute capability 8.0 and up).
// Code that uses them is never launched below that, but is compiled: there the functions are plain copies that wait.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace quire::gpu {

/// Address of shared memory as instructions take it.
__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes, both addresses aligned to them, past the L1 cache. If not `valid` the 16 bytes become zero and `global` is
/// not read; it must be a valid address all the same.
__device__ inline void async_copy_16(void* shared, const void* global, bool valid = true) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(bytes)
               : "memory");
#else
  *static_cast<uint4*>(shared) = valid ? *static_cast<const uint4*>(global) : uint4{0, 0, 0, 0};
#endif
}

/// The same with a policy of the second-level cache (bulk_copy.cuh).
__device__ inline void async_copy_16(void* shared, const void* global, bool valid, uint64_t policy) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes), "l"(policy)
               : "memory");
#endif
}

/// All copies of this thread since the last call are one group.
__device__ inline void async_copy_commit() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/// Wait until at most the kPending latest groups of this thread are still under way. Other threads' copies are seen
/// after a barrier.
template <int kPending>
__device__ inline void async_copy_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

/// Make initialised barriers, and what was written to shared memory, known to the copy engine.
__device__ inline void fence_for_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

}  // namespace quire::gpu
