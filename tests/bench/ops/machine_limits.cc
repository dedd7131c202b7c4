#include "ops/machine_limits.h"

#include <immintrin.h>

#include <atomic>
#include <chrono>

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

/// Keeps results alive.
std::atomic<float> sink{0.0f};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr int kSums = 8;

__attribute__((target("avx2,fma"))) float read_avx2(const float* data, size_t count) {
  __m256 sums[kSums] = {};
  for (size_t i = 0; i + kSums * 8 <= count; i += kSums * 8) {
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sums[j] = _mm256_add_ps(sums[j], _mm256_loadu_ps(data + i + j * 8));
  }
#pragma GCC unroll 8
  for (int j = 1; j < kSums; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) float read_avx512(const float* data, size_t count) {
  __m512 sums[kSums] = {};
  for (size_t i = 0; i + kSums * 16 <= count; i += kSums * 16) {
#pragma GCC unroll 8
    for (int j = 0; j < kSums; ++j) sums[j] = _mm512_add_ps(sums[j], _mm512_loadu_ps(data + i + j * 16));
  }
#pragma GCC unroll 8
  for (int j = 1; j < kSums; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  return _mm512_cvtss_f32(sums[0]);
}

float read_portable(const float* data, size_t count) {
  float sums[kSums] = {};
  for (size_t i = 0; i + kSums <= count; i += kSums) {
    for (int j = 0; j < kSums; ++j) sums[j] += data[i + j];
  }
  return sums[0];
}

// The units need about ten multiply-adds under way (latency 4 or 5, two per cycle).
constexpr int kChains = 12;
constexpr int64_t kRounds = 10'000'000;

// The empty asm keeps the compiler from working the loop out.
__attribute__((target("avx2,fma"))) double multiply_adds_avx2() {
  __m256 sums[kChains] = {};
  const __m256 factor = _mm256_set1_ps(0.5f);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      sums[j] = _mm256_fmadd_ps(sums[j], factor, factor);
      __asm__ volatile("" : "+x"(sums[j]));
    }
  }
#pragma GCC unroll 12
  for (int j = 1; j < kChains; ++j) sums[0] = _mm256_add_ps(sums[0], sums[j]);
  sink = _mm256_cvtss_f32(sums[0]);
  return 2.0 * 8 * kChains * kRounds;
}

__attribute__((target("avx512f"))) double multiply_adds_avx512() {
  __m512 sums[kChains] = {};
  const __m512 factor = _mm512_set1_ps(0.5f);
  for (int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kChains; ++j) {
      sums[j] = _mm512_fmadd_ps(sums[j], factor, factor);
      __asm__ volatile("" : "+v"(sums[j]));
    }
  }
#pragma GCC unroll 12
  for (int j = 1; j < kChains; ++j) sums[0] = _mm512_add_ps(sums[0], sums[j]);
  sink = _mm512_cvtss_f32(sums[0]);
  return 2.0 * 16 * kChains * kRounds;
}

}  // namespace

double read_bandwidth(const void* data, size_t bytes, cpu::Isa isa, ThreadPool& pool) {
  const auto read = isa == cpu::Isa::kAvx512 ? read_avx512 : isa == cpu::Isa::kAvx2 ? read_avx2 : read_portable;
  const size_t count = bytes / sizeof(float) / static_cast<size_t>(pool.size());
  const Clock::time_point start = Clock::now();
  pool.run(
      [&](int worker) { sink = read(static_cast<const float*>(data) + count * static_cast<size_t>(worker), count); });
  return static_cast<double>(bytes) / seconds_since(start);
}

double peak_flops(cpu::Isa isa, ThreadPool& pool) {
  if (isa == cpu::Isa::kPortable) return 0.0;
  std::atomic<double> operations{0.0};
  const Clock::time_point start = Clock::now();
  pool.run([&](int) { operations += isa == cpu::Isa::kAvx512 ? multiply_adds_avx512() : multiply_adds_avx2(); });
  return operations / seconds_since(start);
}

}  // namespace quire::bench
