#include <immintrin.h>

#include <array>
#include <utility>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd_avx512.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c")

namespace quire::cpu::avx512 {
namespace {

// 14 rows of 32 columns: 28 sums, 2 vectors of weights and a broadcast of the 32 registers.
constexpr int kTileRows = 14;
constexpr int kFullPanelRows = kTileRows;

#include "backend/cpu/gemm/tile.inl"
// Tiles first.
#include "backend/cpu/gemm/piece.inl"

}  // namespace

LinearKernel linear_kernel() {
  return {.rows_per_block = kRowsPerBlock, .rows_per_tile = kTileRows, .compute = compute_piece};
}

void linear(const LinearArgs& args, Stream& stream) {
  run_linear(args, stream, linear_kernel());
}

void grouped_linear(const GroupedLinearArgs& args, Stream& stream) {
  run_grouped_linear(args, stream, linear_kernel());
}

}  // namespace quire::cpu::avx512
