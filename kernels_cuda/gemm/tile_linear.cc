// The linear op by tiles: what they can take, and what is asked of them.
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/gemm/tile.h"

namespace quire::gpu {
namespace {

bool aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.strides[0] * dtype_bytes(tensor.dtype) % 16 == 0;
}

}  // namespace

bool tile_linear_fits(const LinearArgs& args, const ActivationRule* activation, const GpuStream& stream) {
  const DType dtype = args.weight->dtype;
  const bool gated = activation != nullptr && activation->gated;
  return tiles_fit(stream.device()) && (dtype == DType::kBFloat16 || dtype == DType::kFloat16) &&
         args.x.dtype == dtype && (args.out.dtype == dtype || args.out.dtype == DType::kFloat32) &&
         args.weight->groups == 1 && args.weight->k % 8 == 0 && (!gated || args.weight->n % 16 == 0) &&
         aligned(args.x) && aligned(args.out);
}

void tile_linear(const LinearArgs& args, const ActivationRule* activation, GpuStream& stream) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  TileProduct product;
  product.x = args.x.data;
  product.x_stride = args.x.strides[0];
  product.weight = args.weight->data.data();
  product.n = static_cast<int32_t>(args.weight->n);
  product.k = static_cast<int32_t>(args.weight->k);
  product.num_rows = static_cast<int32_t>(rows);
  product.num_x_rows = rows;
  if (args.bias) product.bias = args.bias.as<const float>();
  if (args.residual) {
    product.residual = args.residual.as<const float>();
    product.residual_stride = args.residual.strides[0];
  }
  if (activation != nullptr) {
    product.activates = true;
    product.rule = *activation;
  }
  product.out = args.out.data;
  product.out_stride = args.out.strides[0];
  product.out_is_float32 = args.out.dtype == DType::kFloat32;
  multiply_tiles(product, args.weight->dtype, tile_rows_for(rows, product, stream), 1, stream);
}

}  // namespace quire::gpu
