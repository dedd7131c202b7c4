// The instructions of AMD's matrix cores where there are none, in the place of kernels_hip/common/instructions.h: lanes
// put their registers into shared memory, and each works out its own values of the result, over k in order, in float32.
// Who holds what is written down as in AMD's matrix instruction calculator (matrix_core.h says where that is), not
// with the functions of the kernels. A wave of 64 is two warps; what it does together asks both to come.
// tests/hip_on_cpu uses it too.
#pragma once

#include <cstdint>
#include <type_traits>

#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

constexpr int kMatrixLanes = QUIRE_HIP_WAVE;

struct alignas(16) Chunk {
  uint32_t words[4];
  __device__ uint32_t& operator[](int i) { return words[i]; }
  __device__ const uint32_t& operator[](int i) const { return words[i]; }
};
struct alignas(8) HalfChunk {
  uint32_t words[2];
  __device__ uint32_t& operator[](int i) { return words[i]; }
  __device__ const uint32_t& operator[](int i) const { return words[i]; }
};

__device__ inline Chunk load_once(const void* from) {
  return *static_cast<const Chunk*>(from);
}

template <int kLanes>
__device__ inline int wave_of_block() {
  return static_cast<int>(threadIdx.x) / kLanes;
}

template <typename Value>
__device__ inline Value read_shared(const Value* from) {
  return *from;
}
template <typename Value>
__device__ inline void write_shared(Value* to, const Value& value) {
  *to = value;
}

template <int kLanes>
__device__ inline void sync_wave() {
  if constexpr (kLanes == 64) {
    Wave::sync_both_halves();
  } else {
    Wave::sync();
  }
}

namespace detail {
constexpr int kMostThreads = 256;
}  // namespace detail

template <int kLanes>
__device__ inline uint32_t exchange(uint32_t value, int mask) {
  if (mask < 32) return shuffle_xor(value, mask);
  __shared__ uint32_t values[detail::kMostThreads];
  values[threadIdx.x] = value;
  sync_wave<kLanes>();
  const uint32_t other = values[threadIdx.x ^ static_cast<unsigned>(mask)];
  sync_wave<kLanes>();
  return other;
}

__device__ inline float power_of_two(float x) {
  return exp2f(x);
}

__device__ inline float reciprocal(float x) {
  return 1.0f / x;
}

namespace detail {
/// The 16-bit number in the upper or lower half of a register.
template <typename T>
__device__ inline float number(uint32_t word, int half) {
  const auto bits = static_cast<uint16_t>(word >> 16 * half);
  if constexpr (std::is_same_v<T, BFloat>) {
    return to_float(bfloat_of_bits(bits));
  } else {
    return to_float(half_of_bits(bits));
  }
}
}  // namespace detail

template <typename T, int kLanes>
__device__ inline void multiply_add(float (&d)[256 / kLanes], const uint32_t* a, const uint32_t* b) {
  constexpr int kWords = kLanes == 64 ? 2 : 8;
  __shared__ uint32_t a_registers[kWords][detail::kMostThreads];
  __shared__ uint32_t b_registers[kWords][detail::kMostThreads];
#pragma unroll
  for (int word = 0; word < kWords; ++word) {
    a_registers[word][threadIdx.x] = a[word];
    b_registers[word][threadIdx.x] = b[word];
  }
  sync_wave<kLanes>();
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
  const int first = static_cast<int>(threadIdx.x) - lane;
#pragma unroll
  for (int value = 0; value < 256 / kLanes; ++value) {
    // MFMA: row 4 * floor(lane / 16) + register; WMMA: 2 * register + floor(lane / 16).
    const int i = kLanes == 64 ? 4 * (lane / 16) + value : 2 * value + lane / 16;
    const int j = lane % 16;
#pragma unroll 1
    for (int k = 0; k < 16; ++k) {
      // MFMA: k in lane 16 * floor(k / 4) + row, register floor(k / 2) % 2. WMMA: register floor(k / 2) of lanes row
      // and row + 16, which must agree: of each a half is looked at.
      const int lanes_before = kLanes == 64 ? 16 * (k / 4) : 16 * (k / 8);
      const int word = kLanes == 64 ? k / 2 % 2 : k / 2;
      d[value] += detail::number<T>(a_registers[word][first + lanes_before + i], k % 2) *
                  detail::number<T>(b_registers[word][first + lanes_before + j], k % 2);
    }
  }
  sync_wave<kLanes>();
}

}  // namespace quire::gpu
