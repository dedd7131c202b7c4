#include <immintrin.h>

#include <array>
#include <utility>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/simd_avx2.h"

#pragma GCC target("avx2,fma,f16c")

namespace quire::cpu::avx2 {
namespace {

// 6 rows of 16 columns: 12 sums, 2 vectors of weights and a broadcast of the 16 registers. 3 rows of 32: 12 sums, 3
// broadcasts and a vector of weights.
constexpr int kTileRows = 6;
constexpr int kFullPanelRows = 3;

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

}  // namespace quire::cpu::avx2
