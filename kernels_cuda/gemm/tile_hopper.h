#pragma once

#include "kernels_cuda/gemm/tile.cuh"

namespace quire::gpu {

/// Whether multiply_hopper_tiles() works there: compute capability 9.0.
bool hopper_tiles_fit(const Device& device);

/// multiply_tiles() with the instructions of that capability.
void multiply_hopper_tiles(const TileProduct& product, DType dtype, int rows_per_tile, GpuStream& stream);

}  // namespace quire::gpu
