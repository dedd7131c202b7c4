#include <immintrin.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <utility>

#include "backend/cpu/attention_plan.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_layout.h"
#include "backend/cpu/simd_avx2.h"
#include "backend/cpu/stream.h"

#pragma GCC target("avx2,fma,f16c")

namespace quire::cpu::avx2 {
namespace {

// 6 rows of 2 vectors: 12 sums, 2 vectors and a broadcast of the 16 registers; 12 chains hide the latency of the sums.
constexpr int kTileRows = 6;
constexpr int kPagedTileRows = 6;
constexpr int vectors_beside(int rows) {
  if (rows == 1) return 8;
  return rows <= 3 ? 4 : 2;
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

}  // namespace quire::cpu::avx2
