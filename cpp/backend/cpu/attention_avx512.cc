#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <utility>

#include "backend/cpu/attention_plan.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_layout.h"
#include "backend/cpu/simd_avx512.h"
#include "backend/cpu/stream.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")

namespace quire::cpu::avx512 {
namespace {

// 12 rows of 2 vectors: 24 sums of the 32 registers. Fewer rows take more vectors, so that chains stay many.
constexpr int kTileRows = 12;
constexpr int kPagedTileRows = 8;
constexpr int vectors_beside(int rows) {
  if (rows <= 2) return 8;
  return rows <= 6 ? 4 : 2;
}

#include "backend/cpu/simd_math.inl"
#include "backend/cpu/simd_rows.inl"
// Each needs those before.
#include "backend/cpu/attention_view.inl"
//
#include "backend/cpu/attention_tile.inl"
//
#include "backend/cpu/attention_softmax.inl"
#include "backend/cpu/attention_span.inl"
//
#include "backend/cpu/attention_walk.inl"

}  // namespace

#include "backend/cpu/attention.inl"

}  // namespace quire::cpu::avx512
