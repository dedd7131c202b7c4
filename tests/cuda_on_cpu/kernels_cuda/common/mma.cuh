// In the place of kernels_cuda/common/mma.cuh, which says what these do and who holds what.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

/// 16 numbers along which is summed, of 8 registers.
template <typename T>
struct Sixteen {
  float values[16];

  explicit Sixteen(const uint32_t (&pairs)[8]) {
    T numbers[16];
    std::memcpy(numbers, pairs, sizeof(numbers));
    for (int k = 0; k < 16; ++k) values[k] = to_float(numbers[k]);
  }
  /// Of four lanes, each of whom brings the pair of one number and of that 8 behind it.
  static Sixteen of_quad(const gpu_on_cpu::Brought* lanes, int which) {
    uint32_t pairs[8];
    for (int quad = 0; quad < 4; ++quad) {
      pairs[quad] = static_cast<uint32_t>(lanes[quad][which]);
      pairs[quad + 4] = static_cast<uint32_t>(lanes[quad][which] >> 32);
    }
    return Sixteen(pairs);
  }
  /// In pairs, which is as good an order as any other.
  float dot(const Sixteen& other) const {
    float products[16];
    for (int k = 0; k < 16; ++k) products[k] = values[k] * other.values[k];
    for (int k = 0; k < 8; ++k) products[k] += products[k + 8];
    for (int k = 0; k < 4; ++k) products[k] += products[k + 4];
    return (products[0] + products[2]) + (products[1] + products[3]);
  }
};

template <typename T>
uint32_t pack_pair(float low, float high) {
  const T values[2] = {from_float<T>(low), from_float<T>(high)};
  uint32_t pair;
  std::memcpy(&pair, values, sizeof(pair));
  return pair;
}

/// The 16 bytes that each lane's address leads to.
inline const auto& load_rows(uint32_t row_address) {
  if (row_address % 16 != 0) gpu_on_cpu::fail("loads a row of a matrix from a place between");
  gpu_on_cpu::Brought own{};
  std::memcpy(own.data(), shared_pointer(row_address), 16);
  return gpu_on_cpu::bring_together(own);
}
inline uint32_t word_of(const gpu_on_cpu::Brought& row, int i) {
  return static_cast<uint32_t>(row[i / 2] >> i % 2 * 32);
}

inline void load_matrices(uint32_t (&values)[4], uint32_t row_address) {
  const auto& rows = load_rows(row_address);
  const int lane = gpu_on_cpu::thread_number() % 32;
  for (int i = 0; i < 4; ++i) values[i] = word_of(rows[8 * i + lane / 4], lane % 4);
}

inline void load_matrices_transposed(uint32_t (&values)[4], uint32_t row_address) {
  const auto& rows = load_rows(row_address);
  const int lane = gpu_on_cpu::thread_number() % 32, row = lane % 4 * 2, column = lane / 4;
  const auto element = [&](int i, int r) { return word_of(rows[8 * i + r], column / 2) >> column % 2 * 16 & 0xffff; };
  for (int i = 0; i < 4; ++i) values[i] = element(i, row) | element(i, row + 1) << 16;
}

template <typename T>
void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto pair = [](uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; };
  const auto& lanes = gpu_on_cpu::bring_together({pair(a[0], a[2]), pair(a[1], a[3]), pair(b0, b1)});
  const int lane = gpu_on_cpu::thread_number() % 32, g = lane / 4, p = lane % 4 * 2;
  const Sixteen<T> columns[2] = {Sixteen<T>::of_quad(&lanes[p * 4], 2), Sixteen<T>::of_quad(&lanes[(p + 1) * 4], 2)};
  for (int half = 0; half < 2; ++half) {
    const auto row = Sixteen<T>::of_quad(&lanes[g * 4], half);
    d[half * 2] += row.dot(columns[0]);
    d[half * 2 + 1] += row.dot(columns[1]);
  }
}

}  // namespace quire::gpu
