// Instructions that CUDA C++ has no words for. All of PTX is here and in async_copy.cuh, bulk_copy.cuh, mma.cuh and
// gemm/warpgroup*.cuh, which tests/cuda_on_cpu replaces: other files are C++ with threads.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

/// Declares `name`: the shared memory whose size a launch gives.
#define QUIRE_DYNAMIC_SHARED(type, name) extern __shared__ __align__(128) type name[]

namespace quire::gpu {

// Launches that overlap: launch.cuh says how.

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// 2^x; 0 for -infinity.
__device__ inline float power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Barrier number 1 to 15 of a block, of kThreads of its threads; __syncthreads() is number 0.
template <int kThreads>
__device__ inline void named_barrier(int number) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "n"(kThreads) : "memory");
}

// Memory that other multiprocessors write and read meanwhile. Relaxed: nothing else is ordered by it.

/// Two pieces of 8 bytes, each of which is loaded as one.
__device__ inline ulonglong2 load_relaxed(const ulonglong2* from) {
  ulonglong2 pair;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(pair.x), "=l"(pair.y) : "l"(from) : "memory");
  return pair;
}

__device__ inline void store_relaxed(uint64_t* to, uint64_t value) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}

/// Add one; what was there before. Orders what the block's threads wrote before, and will read.
__device__ inline unsigned count_arrival(unsigned* counter) {
  unsigned before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;" : "=r"(before) : "l"(counter) : "memory");
  return before;
}

// Memory that other devices, or the host, write and read meanwhile.

/// 8 bytes are stored and loaded as one; two of them in one instruction.
__device__ inline void store_to_system(ulonglong2* to, ulonglong2 pair) {
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(pair.x), "l"(pair.y) : "memory");
}
__device__ inline ulonglong2 load_from_system(const ulonglong2* from) {
  ulonglong2 pair;
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];" : "=l"(pair.x), "=l"(pair.y) : "l"(from) : "memory");
  return pair;
}
__device__ inline uint32_t load_from_system(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
/// After all that this thread has written.
__device__ inline void release_to_system(uint32_t* to, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

/// Of all devices.
__device__ inline uint64_t clock_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}

/// To be called each time that what a thread waits for in memory has not come.
__device__ inline void pause_between_polls() {}

/// threadIdx.x, asked for anew: what is computed from it is not kept in registers all through a long kernel.
__device__ inline int thread_anew() {
  int thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return thread;
}

/// Read it, though nothing is done with it.
__device__ inline void use(uint32_t value) {
  asm volatile("" ::"r"(value));
}

/// A kernel's parameter, from where memory sees it: as parameters, lanes would read one after the other.
__device__ inline uint64_t load_parameter(const uint64_t* parameter) {
  uint64_t value;
  asm volatile("ld.u64 %0, [%1];" : "=l"(value) : "l"(parameter));
  return value;
}

/// To the second-level cache: the line of an address; `bytes` (a multiple of 16) from there on.
__device__ inline void prefetch_to_l2(const void* memory) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(memory));
}
__device__ inline void prefetch_to_l2(const void* memory, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(memory), "r"(bytes) : "memory");
#endif
}

}  // namespace quire::gpu
