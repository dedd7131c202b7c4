#pragma once

#include "kernels_cuda/gemm/tile.cuh"

namespace quire::gpu {

constexpr int kMostSkinnyRows = 64;

/// Whether multiply_skinny() is for products of so many rows with one matrix of n columns: few rows, compute capability
/// 9.0, a matrix that cuts into about as many equal parts as there are multiprocessors, and a stream that is not
/// deterministic.
bool skinny_fits(int64_t rows, int64_t n, const GpuStream& stream);

/// multiply_tiles() for such a product, without lists of rows.
void multiply_skinny(const TileProduct& product, DType dtype, GpuStream& stream);

}  // namespace quire::gpu
