#pragma once

#include "backend/ops/moe.h"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/moe/plain.cuh"

namespace quire::gpu {

/// How the products of experts are done.
struct ExpertTiles {
  bool fit = false;  ///< by multiply_tiles(); else by multiply_plain()
  int rows = kPlainRows;
  bool gathered = false;  ///< the rows of x are to be copied behind each other first
};

/// `up`: the first product. In moe/tiles.cc of either tree.
ExpertTiles choose_expert_tiles(const MoeArgs& args, const TileProduct& up, const GpuStream& stream);

}  // namespace quire::gpu
