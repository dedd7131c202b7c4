#pragma once

#include "core/dtype.h"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// Height of the row tiles that multiply_plain() takes.
constexpr int kPlainRows = 32;

/// The product of multiply_tiles() for all types and sizes, in float32 throughout. `product` must have row tiles.
void multiply_plain(const TileProduct& product, DType x, DType weight, DType out, GpuStream& stream);

}  // namespace quire::gpu
