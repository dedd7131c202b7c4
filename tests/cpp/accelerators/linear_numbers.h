// What the linear ops are tested with: against their definitions in double, over the values that the rounded operands
// really have.
//
// Bounds: outputs are about normal. float32 sums of exact products, made in any order, lie within 1e-4; a 16-bit output
// is rounded once more. Where 16-bit inputs are themselves results (a norm), one of them may round the other way.
#pragma once

#include <cmath>
#include <cstdint>

#include "accelerators/accelerator.h"

namespace quire::test {

constexpr DType kAllTypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};

inline double tolerance_of(DType out) {
  return out == DType::kFloat32 ? 1e-4 : rounding_of(out);
}

/// [groups * n, k], about 1 / sqrt(k) each, so that outputs are about normal.
inline Numbers random_weight(DType dtype, int64_t rows, int64_t k, uint32_t seed) {
  return Numbers::random(dtype, rows, k, seed, 0, 1.0f / std::sqrt(static_cast<float>(k)));
}

inline PackedLinear pack(Numbers& weight, Stream& stream, int64_t groups = 1) {
  LinearSource source;
  const Tensor all = weight.tensor();
  const int64_t n = weight.rows() / groups;
  for (int64_t group = 0; group < groups; ++group) source.parts.push_back(all.rows(group * n, n));
  source.groups = groups;
  source.dtype = all.dtype;
  return accelerator()->pack_linear(source, stream);
}

inline double dot(const Numbers& x, int64_t row, const Numbers& weight, int64_t n, int64_t x_begin = 0) {
  double sum = 0.0;
  for (int64_t k = 0; k < weight.columns(); ++k) {
    sum += static_cast<double>(x.get(row, x_begin + k)) * static_cast<double>(weight.get(n, k));
  }
  return sum;
}

/// Float32 that the type of the model can hold, as biases of its checkpoint are.
inline Numbers random_bias(DType dtype, int64_t n, uint32_t seed) {
  const Numbers rounded = Numbers::random(dtype, 1, n, seed);
  Numbers bias(DType::kFloat32, 1, n);
  for (int64_t i = 0; i < n; ++i) bias.set(0, i, rounded.get(0, i));
  return bias;
}

}  // namespace quire::test
