#pragma once

#include <cstdint>

#include "backend/cpu/rows.h"
#include "backend/ops/norm.h"

namespace quire::cpu {

/// One row of the norm op with what belongs to it. Weight and bias may be null.
struct NormRow {
  const float* x = nullptr;
  const float* weight = nullptr;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t size = 0;
};

/// Call body(row) for every row of [T, D] or [T, H, K].
template <typename Body>
void for_each_norm_row(const NormArgs& args, Stream& stream, const Body& body) {
  const bool heads = args.x.rank == 3;
  const int64_t num_heads = heads ? args.x.shape[1] : 1;
  const int64_t size = args.x.shape[args.x.rank - 1];
  const auto at = [](const Tensor& tensor, int64_t first, int64_t second) -> float* {
    return tensor.as<float>() + first * tensor.strides[0] + second * (tensor.rank == 3 ? tensor.strides[1] : 0);
  };
  const auto parameter = [](const Tensor& tensor, int64_t head) -> const float* {
    return tensor ? tensor.as<float>() + (tensor.rank == 2 ? head * tensor.strides[0] : 0) : nullptr;
  };
  split_items(stream, args.x.shape[0] * num_heads, size, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t token = row / num_heads;
      const int64_t head = row % num_heads;
      body(NormRow{.x = at(args.x, token, head),
                   .weight = parameter(args.weight, head),
                   .bias = parameter(args.bias, head),
                   .out = at(args.out, token, head),
                   .size = size});
    }
  });
}

}  // namespace quire::cpu
