#pragma once

#include <hip/hip_runtime.h>

#include <cstdint>

namespace quire::gpu {

/// The upper half of a float. Our own, for HIP's types of that kind have changed their names and are not in every
/// version.
struct BFloat {
  uint16_t bits;
};

__device__ inline BFloat bfloat_of_bits(uint16_t bits) {
  return {bits};
}

__device__ inline float to_float(BFloat value) {
  return __uint_as_float(uint32_t{value.bits} << 16);
}

/// To nearest, ties to even; NaN stays NaN.
__device__ inline BFloat bfloat_from(float value) {
  const uint32_t bits = __float_as_uint(value);
  if (value != value) return {static_cast<uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

}  // namespace quire::gpu
