#pragma once

#include <cuda.h>

#include "kernels_cuda/gemm/tile.cuh"

namespace quire::gpu {

// A product's operands as the copy engine sees them (tensor_map.h), for boxes of a unit of K.

/// The matrices [matrices * n, K] by so many rows of them. For gated activations rows come in groups of eight of the
/// gate and eight of its partner: the map sees [matrices, n / 16, 2, 8, K].
CUtensorMap weight_map(const TileProduct& product, DType dtype, int columns);

/// x [num_x_rows, K] by so many rows.
CUtensorMap x_map(const TileProduct& product, DType dtype, int rows);

}  // namespace quire::gpu
