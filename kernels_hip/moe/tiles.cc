// Whether matrix cores do the products of experts, and how high their tiles are.
#include "kernels_cuda/moe/tiles.h"

namespace quire::gpu {

ExpertTiles choose_expert_tiles(const MoeArgs& args, const TileProduct& up, const GpuStream& stream) {
  ExpertTiles tiles;
  tiles.fit = tiles_fit(stream.device()) && suits_tiles(args);
  if (!tiles.fit) return tiles;
  tiles.rows = tile_rows_for(likely_rows(args) * 5 / 4, up, stream);
  return tiles;
}

}  // namespace quire::gpu
