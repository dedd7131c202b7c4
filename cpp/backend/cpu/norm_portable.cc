#include <cmath>

#include "backend/cpu/kernels.h"
#include "backend/cpu/norm_rows.h"

namespace quire::cpu::portable {
namespace {

void norm_row(const NormRow& row, const NormArgs& args) {
  double mean = 0.0;
  if (args.kind == NormKind::kLayer) {
    for (int64_t i = 0; i < row.size; ++i) mean += row.x[i];
    mean /= static_cast<double>(row.size);
  }
  double variance = 0.0;
  for (int64_t i = 0; i < row.size; ++i) variance += (row.x[i] - mean) * (row.x[i] - mean);
  variance /= static_cast<double>(row.size);
  const double factor = 1.0 / std::sqrt(variance + args.eps);
  for (int64_t i = 0; i < row.size; ++i) {
    double value = (row.x[i] - mean) * factor;
    if (row.weight != nullptr) value *= row.weight[i];
    if (row.bias != nullptr) value += row.bias[i];
    row.out[i] = static_cast<float>(value);
  }
}

}  // namespace

void norm(const NormArgs& args, Stream& stream) {
  for_each_norm_row(args, stream, [&](const NormRow& row) { norm_row(row, args); });
}

}  // namespace quire::cpu::portable
