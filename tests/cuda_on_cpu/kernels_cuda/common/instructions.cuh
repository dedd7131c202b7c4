// In the place of kernels_cuda/common/instructions.cuh, which says what these do.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <chrono>
#include <cmath>

namespace quire::gpu {

inline void wait_for_previous() {}
inline void let_next_start() {}

inline float power_of_two(float x) {
  return exp2f(x);
}

template <int kThreads>
void named_barrier(int number) {
  gpu_on_cpu::sync_some(number, kThreads);
}

// Each 8 bytes at once; two of them one after the other.

inline uint64_t load_at_once(const uint64_t* from) {
  return std::atomic_ref(*const_cast<uint64_t*>(from)).load();
}
inline ulonglong2 load_relaxed(const ulonglong2* from) {
  const uint64_t first = load_at_once(&from->x);
  return {first, load_at_once(&from->y)};
}
inline void store_relaxed(uint64_t* to, uint64_t value) {
  std::atomic_ref(*to).store(value);
}

inline unsigned count_arrival(unsigned* counter) {
  return std::atomic_ref(*counter).fetch_add(1);
}

inline void store_to_system(ulonglong2* to, ulonglong2 pair) {
  store_relaxed(&to->x, pair.x);
  store_relaxed(&to->y, pair.y);
}
inline ulonglong2 load_from_system(const ulonglong2* from) {
  return load_relaxed(from);
}
inline uint32_t load_from_system(const uint32_t* from) {
  return std::atomic_ref(*const_cast<uint32_t*>(from)).load();
}
inline void release_to_system(uint32_t* to, uint32_t value) {
  std::atomic_ref(*to).store(value);
}

inline uint64_t clock_ns() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

inline void pause_between_polls() {
  gpu_on_cpu::poll();
}

inline int thread_anew() {
  return static_cast<int>(threadIdx.x);
}

inline void use(uint32_t) {}

inline uint64_t load_parameter(const uint64_t* parameter) {
  return *parameter;
}

inline void prefetch_to_l2(const void*) {}
inline void prefetch_to_l2(const void*, int) {}

}  // namespace quire::gpu
