#pragma once

// Eight float lanes on AVX2, FMA and F16C. simd_avx512.h offers the same names with sixteen; kernels (*.inl) are
// written once over these names. Include it after every other header, and from files of this instruction set only.

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "core/dtype.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")

namespace quire::cpu::avx2 {

constexpr int kLanes = 8;

struct Vec {
  __m256 raw;
};

/// All ones or all zeros per lane.
struct Mask {
  __m256 raw;
};

inline Vec broadcast(float x) {
  return {_mm256_set1_ps(x)};
}
/// 0, 1, 2, ...
inline Vec lane_index() {
  return {_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7)};
}

inline Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.raw, b.raw)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.raw, b.raw)};
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.raw, b.raw)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.raw, b.raw)};
}
/// a * b + c, rounded once.
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.raw, b.raw, c.raw)};
}
/// c - a * b, rounded once.
inline Vec fnma(Vec a, Vec b, Vec c) {
  return {_mm256_fnmadd_ps(a.raw, b.raw, c.raw)};
}
/// The second operand where either is NaN.
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.raw, b.raw)};
}
/// The second operand where either is NaN.
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.raw, b.raw)};
}
inline Vec abs(Vec a) {
  return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.raw)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_or_ps(_mm256_andnot_ps(bit, magnitude.raw), _mm256_and_ps(bit, sign.raw))};
}
/// 2^n, where the low bits of the pattern of `biased` hold n + 127.
inline Vec power_of_two(Vec biased) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(biased.raw), 23))};
}

inline Mask less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.raw, b.raw, _CMP_LT_OQ)};
}
inline Mask less_equal(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.raw, b.raw, _CMP_LE_OQ)};
}
inline Mask equal(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.raw, b.raw, _CMP_EQ_OQ)};
}
/// Not less, so true for NaN.
inline Mask not_less(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.raw, b.raw, _CMP_NLT_UQ)};
}
inline Mask operator|(Mask a, Mask b) {
  return {_mm256_or_ps(a.raw, b.raw)};
}
inline Mask operator&(Mask a, Mask b) {
  return {_mm256_and_ps(a.raw, b.raw)};
}
inline Mask no_lanes() {
  return {_mm256_setzero_ps()};
}
/// Lanes below `count`, which may be any number.
inline Mask first_lanes(int count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes))};
}
/// One bit per lane, lane 0 lowest.
inline uint32_t bits(Mask mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(mask.raw));
}
inline Vec select(Mask mask, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.raw, yes.raw, mask.raw)};
}

inline float reduce_add(Vec a) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float reduce_max(Vec a) {
  __m128 best = _mm_max_ps(_mm256_castps256_ps128(a.raw), _mm256_extractf128_ps(a.raw, 1));
  best = _mm_max_ps(best, _mm_movehl_ps(best, best));
  return _mm_cvtss_f32(_mm_max_ss(best, _mm_movehdup_ps(best)));
}

/// Bring the line of that address nearer, if it is mapped at all.
inline void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

inline Vec load(const float* p) {
  return {_mm256_loadu_ps(p)};
}
inline Vec load(const BFloat16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
}
inline Vec load(const Float16* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
/// The first `count` lanes, 0..kLanes; the others are zero and their memory is not touched.
inline Vec load_first(const float* p, int count) {
  return {_mm256_maskload_ps(p, _mm256_castps_si256(first_lanes(count).raw))};
}
template <typename T>
Vec load_first(const T* p, int count) {
  T buffer[kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
  return load(buffer);
}

inline void store(float* p, Vec a) {
  _mm256_storeu_ps(p, a.raw);
}
inline void store(BFloat16* p, Vec a) {
  const __m256i value = _mm256_castps_si256(a.raw);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(value, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(value, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(value, _mm256_set1_epi32(0x400000));
  const __m256 nan = _mm256_cmp_ps(a.raw, a.raw, _CMP_UNORD_Q);
  const __m256i chosen =
      _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), nan));
  const __m256i high = _mm256_srli_epi32(chosen, 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}
inline void store(Float16* p, Vec a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.raw, _MM_FROUND_TO_NEAREST_INT));
}
/// The first `count` lanes, 0..kLanes; memory of the others is not touched.
inline void store_first(float* p, Vec a, int count) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(first_lanes(count).raw), a.raw);
}
template <typename T>
void store_first(T* p, Vec a, int count) {
  T buffer[kLanes];
  store(buffer, a);
  std::memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

/// From (x0 y0 x1 y1 ...) over two vectors to (x0 x1 ...) and (y0 y1 ...).
inline void deinterleave(Vec a, Vec b, Vec& x, Vec& y) {
  const __m256 low = _mm256_permute2f128_ps(a.raw, b.raw, 0x20);   // a0..a3 b0..b3
  const __m256 high = _mm256_permute2f128_ps(a.raw, b.raw, 0x31);  // a4..a7 b4..b7
  // shuffle works within 128-bit halves: a0 a2 a4 a6 | b0 b2 b4 b6.
  x.raw = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
  y.raw = _mm256_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
}
inline void interleave(Vec x, Vec y, Vec& a, Vec& b) {
  const __m256 low = _mm256_unpacklo_ps(x.raw, y.raw);   // x0 y0 x1 y1 | x4 y4 x5 y5
  const __m256 high = _mm256_unpackhi_ps(x.raw, y.raw);  // x2 y2 x3 y3 | x6 y6 x7 y7
  a.raw = _mm256_permute2f128_ps(low, high, 0x20);
  b.raw = _mm256_permute2f128_ps(low, high, 0x31);
}

}  // namespace quire::cpu::avx2

#pragma GCC pop_options
