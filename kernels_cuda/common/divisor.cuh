#pragma once

#include <cstdint>

#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

/// Divides by what is known when a kernel is launched: a product and a shift, where a division takes some thirty
/// instructions that wait for each other. n / d = n * m / 2^s, rounded down, for 0 <= n < 2^31, with s = 31 +
/// ceil(log2 d) and m = ceil(2^s / d), which is less than 2^32. Source: Granlund and Montgomery, "Division by Invariant
/// Integers using Multiplication", 1994, theorem 4.2.
class Divisor {
 public:
  /// d: at least 1.
  explicit Divisor(int d) : divisor_(d) {
    while (uint64_t{1} << (shift_ - 31) < static_cast<uint64_t>(d)) ++shift_;
    factor_ =
        static_cast<uint32_t>(((uint64_t{1} << shift_) + static_cast<uint64_t>(d) - 1) / static_cast<uint64_t>(d));
  }

  __host__ __device__ operator int() const { return divisor_; }
  __host__ __device__ friend int operator/(int n, const Divisor& d) {
    return static_cast<int>((static_cast<uint64_t>(static_cast<uint32_t>(n)) * d.factor_) >> d.shift_);
  }
  __host__ __device__ friend int operator%(int n, const Divisor& d) { return n - n / d * d.divisor_; }

 private:
  int divisor_;
  int shift_ = 31;
  uint32_t factor_ = 0;
};

}  // namespace quire::gpu
