#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cpu/activation_rows.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/ops/moe.h"

namespace quire::cpu {

/// out[i] = sum over j of weights[j] * x[rows[j]][i] (+ residual[i]): one fused multiply-add after the other from j =
/// 0, starting at 0. What the experts made of a token, joined.
struct JoinedRow {
  const float* x = nullptr;
  int64_t x_stride = 0;
  const int32_t* rows = nullptr;   ///< [count]
  const float* weights = nullptr;  ///< [count]
  int32_t count = 0;
  const float* residual = nullptr;  ///< may be null, may be `out`
  float* out = nullptr;
  int64_t size = 0;
};

/// How an instruction set computes the parts of the moe op.
struct MoeKernel {
  LinearKernel linear;
  ActivateRowFn activate_row = nullptr;
  void (*join_row)(const JoinedRow& row) = nullptr;
};

size_t moe_scratch_bytes(const MoeShape& shape);

void run_moe(const MoeArgs& args, Stream& stream, const MoeKernel& kernel);

}  // namespace quire::cpu
