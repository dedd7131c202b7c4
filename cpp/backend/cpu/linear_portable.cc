#include <algorithm>
#include <cmath>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/cpu/kernels.h"

namespace quire::cpu::portable {
namespace {

template <typename Weight>
float dot(const float* x, const Weight* column, int64_t k) {
  float sum = 0.0f;
  for (int64_t i = 0; i < k; ++i) sum = std::fma(x[i], to_float(column[i * kPanelColumns]), sum);
  return sum;
}

template <typename Weight>
void compute_rows(const LinearArgs& args, const LinearPiece& piece) {
  const int64_t k = args.weight->k;
  const int64_t end = std::min(args.weight->n, piece.panel_end * kPanelColumns);
  for (int64_t row = piece.row_begin; row < piece.row_end; ++row) {
    const float* const x = args.x.as<const float>() + row * args.x.strides[0];
    for (int64_t n = piece.panel_begin * kPanelColumns; n < end; ++n) {
      float sum = dot(x, panel_of<Weight>(*args.weight, piece.group, n / kPanelColumns) + n % kPanelColumns, k);
      if (args.bias) sum += args.bias.as<const float>()[n];
      if (args.residual) sum += args.residual.as<const float>()[row * args.residual.strides[0] + n];
      args.out.as<float>()[row * args.out.strides[0] + n] = sum;
    }
  }
}

void compute_piece(const LinearArgs& args, const LinearPiece& piece) {
  switch (args.weight->dtype) {
    case DType::kBFloat16: return compute_rows<BFloat16>(args, piece);
    case DType::kFloat16: return compute_rows<Float16>(args, piece);
    default: return compute_rows<float>(args, piece);
  }
}

}  // namespace

LinearKernel linear_kernel() {
  return {.rows_per_block = 64, .rows_per_tile = 1, .compute = compute_piece};
}

void linear(const LinearArgs& args, Stream& stream) {
  run_linear(args, stream, linear_kernel());
}

void grouped_linear(const GroupedLinearArgs& args, Stream& stream) {
  run_grouped_linear(args, stream, linear_kernel());
}

}  // namespace quire::cpu::portable
