#pragma once

// Sixteen float lanes on AVX-512 F, BW, DQ and VL; the names of simd_avx2.h. Include it after every other header, and
// from files of this instruction set only.

#include <immintrin.h>

#include <cstdint>

#include "core/dtype.h"

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")

namespace quire::cpu::avx512 {

constexpr int kLanes = 16;

struct Vec {
  __m512 raw;
};

struct Mask {
  __mmask16 raw;
};

inline Vec broadcast(float x) {
  return {_mm512_set1_ps(x)};
}
inline Vec lane_index() {
  return {_mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)};
}

inline Vec operator+(Vec a, Vec b) {
  return {_mm512_add_ps(a.raw, b.raw)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm512_sub_ps(a.raw, b.raw)};
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm512_mul_ps(a.raw, b.raw)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm512_div_ps(a.raw, b.raw)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.raw, b.raw, c.raw)};
}
inline Vec fnma(Vec a, Vec b, Vec c) {
  return {_mm512_fnmadd_ps(a.raw, b.raw, c.raw)};
}
inline Vec min(Vec a, Vec b) {
  return {_mm512_min_ps(a.raw, b.raw)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.raw, b.raw)};
}
inline Vec abs(Vec a) {
  return {_mm512_andnot_ps(_mm512_set1_ps(-0.0f), a.raw)};
}
inline Vec copy_sign(Vec magnitude, Vec sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return {_mm512_or_ps(_mm512_andnot_ps(bit, magnitude.raw), _mm512_and_ps(bit, sign.raw))};
}
inline Vec power_of_two(Vec biased) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(biased.raw), 23))};
}

inline Mask less(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_LT_OQ)};
}
inline Mask less_equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_LE_OQ)};
}
inline Mask equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_EQ_OQ)};
}
inline Mask not_less(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.raw, b.raw, _CMP_NLT_UQ)};
}
inline Mask operator|(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.raw | b.raw)};
}
inline Mask operator&(Mask a, Mask b) {
  return {static_cast<__mmask16>(a.raw & b.raw)};
}
inline Mask no_lanes() {
  return {0};
}
inline Mask first_lanes(int count) {
  if (count <= 0) return {0};
  return {static_cast<__mmask16>(count >= kLanes ? 0xffffu : (1u << count) - 1u)};
}
inline uint32_t bits(Mask mask) {
  return mask.raw;
}
inline Vec select(Mask mask, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(mask.raw, no.raw, yes.raw)};
}

inline float reduce_add(Vec a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.raw), _mm512_extractf32x8_ps(a.raw, 1));
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}
inline float reduce_max(Vec a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.raw), _mm512_extractf32x8_ps(a.raw, 1));
  __m128 best = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  best = _mm_max_ps(best, _mm_movehl_ps(best, best));
  return _mm_cvtss_f32(_mm_max_ss(best, _mm_movehdup_ps(best)));
}

inline void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
}

inline Vec load(const float* p) {
  return {_mm512_loadu_ps(p)};
}
inline Vec load_bfloat16(__m256i half) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
inline Vec load(const BFloat16* p) {
  return load_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline Vec load(const Float16* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Vec load_first(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count).raw, p)};
}
inline Vec load_first(const BFloat16* p, int count) {
  return load_bfloat16(_mm256_maskz_loadu_epi16(first_lanes(count).raw, p));
}
inline Vec load_first(const Float16* p, int count) {
  return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first_lanes(count).raw, p))};
}

inline __m256i to_bfloat16_lanes(Vec a) {
  const __m512i value = _mm512_castps_si512(a.raw);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(value, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(value, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(a.raw, a.raw, _CMP_UNORD_Q);
  const __m512i chosen = _mm512_mask_or_epi32(rounded, nan, value, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(chosen, 16));
}
inline __m256i to_float16_lanes(Vec a) {
  return _mm512_cvtps_ph(a.raw, _MM_FROUND_TO_NEAREST_INT);
}
inline void store(float* p, Vec a) {
  _mm512_storeu_ps(p, a.raw);
}
inline void store(BFloat16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat16_lanes(a));
}
inline void store(Float16* p, Vec a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_float16_lanes(a));
}
inline void store_first(float* p, Vec a, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count).raw, a.raw);
}
inline void store_first(BFloat16* p, Vec a, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count).raw, to_bfloat16_lanes(a));
}
inline void store_first(Float16* p, Vec a, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count).raw, to_float16_lanes(a));
}

inline void deinterleave(Vec a, Vec b, Vec& x, Vec& y) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  x.raw = _mm512_permutex2var_ps(a.raw, even, b.raw);
  y.raw = _mm512_permutex2var_ps(a.raw, odd, b.raw);
}
inline void interleave(Vec x, Vec y, Vec& a, Vec& b) {
  const __m512i first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i second = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  a.raw = _mm512_permutex2var_ps(x.raw, first, y.raw);
  b.raw = _mm512_permutex2var_ps(x.raw, second, y.raw);
}

}  // namespace quire::cpu::avx512

#pragma GCC pop_options
