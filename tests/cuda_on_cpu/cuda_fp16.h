#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "core/dtype.h"
#include "cuda_runtime.h"

struct __half {
  uint16_t bits;
};
struct __half2 {
  __half x, y;
};

inline float __half2float(__half value) {
#if defined(__F16C__)
  return _cvtsh_ss(value.bits);
#else
  return quire::to_float(quire::Float16{value.bits});
#endif
}
inline __half __float2half_rn(float value) {
  return {quire::to_float16(value).bits};
}
inline __half __ushort_as_half(uint16_t bits) {
  return {bits};
}
inline __half2 __floats2half2_rn(float low, float high) {
  return {__float2half_rn(low), __float2half_rn(high)};
}
