#pragma once

#include "backend/ops/moe.h"
#include "kernels_cuda/gemm/tile.cuh"
#include "kernels_cuda/moe/plain.cuh"

namespace quire::gpu {

/// How the products of experts are done.
struct ExpertTiles {
  bool fit = false;  ///< by multiply_tiles(); else by multiply_plain()
  int rows = kPlainRows;
  int32_t likely_row_tiles = 0;  ///< how many there will be, or so
  bool gathered = false;         ///< the rows of x are to be copied behind each other first
};

/// Whether types and places are such as tiles can take.
bool suits_tiles(const MoeArgs& args);
/// Rows that an expert in use has, in the mean, if tokens go anywhere.
int64_t likely_rows(const MoeArgs& args);

/// `up`: the first product. In moe/tiles.cc of either tree.
ExpertTiles choose_expert_tiles(const MoeArgs& args, const TileProduct& up, const GpuStream& stream);

}  // namespace quire::gpu
