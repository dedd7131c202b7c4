#include <cmath>

#include "backend/cpu/kernels.h"
#include "backend/cpu/moe_run.h"

namespace quire::cpu::portable {
namespace {

void join_row(const JoinedRow& row) {
  for (int64_t i = 0; i < row.size; ++i) {
    float sum = 0.0f;
    for (int32_t j = 0; j < row.count; ++j) sum = std::fma(row.weights[j], row.x[row.rows[j] * row.x_stride + i], sum);
    row.out[i] = row.residual == nullptr ? sum : sum + row.residual[i];
  }
}

}  // namespace

void moe(const MoeArgs& args, Stream& stream) {
  run_moe(args, stream,
          {.linear = linear_kernel(), .activate_row = activate_row_of(args.activation), .join_row = join_row});
}

}  // namespace quire::cpu::portable
