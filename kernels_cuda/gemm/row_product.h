#pragma once

#include <cstdint>

#include "kernels_cuda/gemm/stream_rows.h"

namespace quire::gpu {

/// Of a block, that share a row.
constexpr int kRowWarps = 8;
constexpr int kRowThreads = kRowWarps * 32;

enum class OutType { kFloat32, kSame };

/// out[t, n] = act(sum_k x[t, k] * weight[n, k] + bias[n]) + residual[t, n]: the arguments of stream_rows() as kernels
/// take them.
struct RowProduct {
  const void* x;
  int64_t x_stride;
  int tokens;
  int k;
  bool has_norm;
  bool layer_norm;
  float eps;
  const float* norm_weight;
  const float* norm_bias;
  const void* weight;
  int units;  ///< rows, or pairs of rows if gated
  const float* bias;
  const float* residual;
  int64_t residual_stride;
  bool has_activation;
  ActivationRule rule;
  void* out;
  OutType out_type;
  int64_t out_stride;
};

inline RowProduct row_product(const StreamRows& args) {
  RowProduct product{};
  product.x = args.x.data;
  product.x_stride = args.x.strides[0];
  product.tokens = static_cast<int>(args.x.shape[0]);
  product.k = static_cast<int>(args.weight->k);
  product.has_norm = args.norm != nullptr;
  if (product.has_norm) {
    product.layer_norm = args.norm->kind == NormKind::kLayer;
    product.eps = args.norm->eps;
    product.norm_weight = args.norm->weight.as<const float>();
    product.norm_bias = args.norm->bias.as<const float>();
  }
  product.weight = args.weight->data.data();
  product.has_activation = args.activation != nullptr;
  if (product.has_activation) product.rule = *args.activation;
  product.units = static_cast<int>(product.rule.gated ? args.weight->n / 2 : args.weight->n);
  product.bias = args.bias.as<const float>();
  product.residual = args.residual.as<const float>();
  product.residual_stride = args.residual.strides[0];
  product.out = args.out.data;
  product.out_type = args.out.dtype == DType::kFloat32 ? OutType::kFloat32 : OutType::kSame;
  product.out_stride = args.out.strides[0];
  return product;
}

}  // namespace quire::gpu
