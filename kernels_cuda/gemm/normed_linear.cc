#include "backend/ops/fused.h"
#include "kernels_cuda/gemm/stream_rows.h"
#include "kernels_cuda/gemm/tile.h"
#include "kernels_cuda/ops.h"

namespace quire::gpu {

void normed_linear(const NormedLinearArgs& args, Stream& stream) {
  if (args.norm.x.shape[0] == 0) return;
  GpuStream& gpu = as_gpu(stream);
  const bool may_stream = !gpu.resources().deterministic;
  StreamRows rows;
  rows.x = args.norm.x;
  rows.norm = &args.norm;
  rows.weight = args.weight;
  rows.bias = args.bias;
  rows.activation = args.has_activation ? &args.activation : nullptr;
  rows.out = args.out;
  // The kernel rounds the norm to the type of the weights.
  const bool rounds = args.norm.out.dtype == args.weight->dtype;
  if (may_stream && rounds && stream_rows_fits(rows, gpu.device())) return chain_or_stream_rows(rows, gpu);

  norm(args.norm, stream);
  rows.x = args.norm.out;
  rows.norm = nullptr;
  if (may_stream && stream_rows_fits(rows, gpu.device())) return chain_or_stream_rows(rows, gpu);

  LinearArgs product{.x = args.norm.out, .weight = args.weight, .bias = args.bias, .residual = {}, .out = args.out};
  if (!args.has_activation) return linear(product, stream);
  if (tiles_are_faster(product, rows.activation, gpu) && tile_linear_fits(product, rows.activation, gpu)) {
    return tile_linear(product, rows.activation, gpu);
  }
  product.out = args.up;
  linear(product, stream);
  activation({.rule = args.activation, .x = product.out, .out = args.out}, stream);
}

}  // namespace quire::gpu
