#pragma once

#include "core/dtype.h"
#include "hip/hip_runtime.h"

struct __half {
  uint16_t bits;
};

inline float __half2float(__half value) {
  return quire::to_float(quire::Float16{value.bits});
}
inline __half __float2half_rn(float value) {
  return {quire::to_float16(value).bits};
}
inline __half __ushort_as_half(uint16_t bits) {
  return {bits};
}
