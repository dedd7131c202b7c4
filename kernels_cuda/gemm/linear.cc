// Which kernel does a product. Deterministic, the choice depends on the types and the matrix, never on the tokens.
#include "backend/ops/linear.h"

#include "kernels_cuda/gemm/blas.h"
#include "kernels_cuda/gemm/generic.h"
#include "kernels_cuda/gemm/grouped.h"
#include "kernels_cuda/gemm/stream_rows.h"
#include "kernels_cuda/gemm/tile.h"
#include "kernels_cuda/layouts.h"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

bool aligned(const Tensor& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.strides[0] * dtype_bytes(matrix.dtype) % 16 == 0;
}

bool blas_fits(const LinearArgs& args) {
  const PackedLinear& weight = *args.weight;
  // Rows of odd places get their bias behind a first rounding.
  if (args.bias && args.out.dtype != DType::kFloat32 && !aligned(args.out)) return false;
  return (weight.dtype == DType::kBFloat16 || weight.dtype == DType::kFloat16) && args.x.dtype == weight.dtype &&
         (args.out.dtype == DType::kFloat32 || args.out.dtype == weight.dtype) && weight.k % 8 == 0 && aligned(args.x);
}

/// The library adds to what `out` holds.
void copy_residual(const LinearArgs& args, GpuStream& stream) {
  if (args.residual.data == args.out.data) return;
  const auto pitch = [](const Tensor& matrix) { return static_cast<size_t>(matrix.strides[0]) * sizeof(float); };
  check(vendor::copy_rows(args.out.data, pitch(args.out), args.residual.data, pitch(args.residual),
                          static_cast<size_t>(args.weight->n) * sizeof(float), static_cast<size_t>(args.x.shape[0]),
                          stream.handle()),
        "linear");
}

/// The bias in the type of `out`, as the library wants it; null if there is no room. Checkpoints of 16-bit models have
/// such biases, so nothing is lost as a rule.
const void* bias_for_blas(const LinearArgs& args, GpuStream& stream) {
  if (args.out.dtype == DType::kFloat32) return args.bias.data;
  const Resources& resources = stream.resources();
  const Tensor rounded(resources.scratch, args.out.dtype, {args.weight->n});
  if (static_cast<size_t>(rounded.bytes()) > resources.scratch_bytes) return nullptr;
  round_vector(args.bias, rounded, stream);
  return rounded.data;
}

bool blas_linear(const LinearArgs& args, GpuStream& stream) {
  Blas* const blas = stream.resources().blas;
  if (blas == nullptr || !blas_fits(args)) return false;
  const PackedLinear& weight = *args.weight;
  BlasProduct product{.rows = args.x.shape[0],
                      .n = weight.n,
                      .k = weight.k,
                      .dtype = weight.dtype,
                      .out_dtype = args.out.dtype,
                      .x = args.x.data,
                      .x_stride = args.x.strides[0],
                      .weight = weight.data.data(),
                      .bias = args.bias ? bias_for_blas(args, stream) : nullptr,
                      .add_residual = static_cast<bool>(args.residual),
                      .out = args.out.data,
                      .out_stride = args.out.strides[0]};
  if (args.residual) copy_residual(args, stream);
  if ((!args.bias || product.bias != nullptr) && blas->multiply(product, stream.handle())) return true;
  // Added afterwards, a bias would be rounded twice to 16 bits.
  if (!args.bias || args.out.dtype != DType::kFloat32) return false;
  product.bias = nullptr;
  if (!blas->multiply(product, stream.handle())) return false;
  add_bias(args.out, args.bias, stream);
  return true;
}

}  // namespace

void linear(const LinearArgs& args, Stream& stream) {
  if (args.x.shape[0] == 0) return;
  GpuStream& gpu = as_gpu(stream);
  if (!gpu.resources().deterministic) {
    StreamRows rows;
    rows.x = args.x;
    rows.weight = args.weight;
    rows.bias = args.bias;
    rows.residual = args.residual;
    rows.out = args.out;
    if (stream_rows_fits(rows, gpu.device())) return chain_or_stream_rows(rows, gpu);
    if (tiles_are_faster(args, nullptr, gpu) && tile_linear_fits(args, nullptr, gpu)) {
      return tile_linear(args, nullptr, gpu);
    }
    if (blas_linear(args, gpu)) return;
  }
  if (tile_linear_fits(args, nullptr, gpu)) return tile_linear(args, nullptr, gpu);
  generic_linear(args, gpu);
}

void grouped_linear(const GroupedLinearArgs& args, Stream& stream) {
  if (args.x.shape[0] == 0) return;
  GpuStream& gpu = as_gpu(stream);
  if (grouped_tiles_fit(args, gpu.device())) return grouped_tiles(args, gpu);
  generic_grouped_linear(args, gpu);
}

size_t linear_scratch_bytes(const Device& device) {
  return tile_scratch_bytes(device);
}

size_t linear_counters(const Device& device) {
  return tile_counters(device);
}

}  // namespace quire::gpu
