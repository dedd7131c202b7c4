// Whether tensor cores do the products of experts, and how high their tiles are.
#include "kernels_cuda/moe/tiles.h"

#include <algorithm>

#include "kernels_cuda/gemm/tile_hopper.h"

namespace quire::gpu {

ExpertTiles choose_expert_tiles(const MoeArgs& args, const TileProduct& up, const GpuStream& stream) {
  const int64_t num_tokens = args.x.shape[0];
  ExpertTiles tiles;
  tiles.fit = tiles_fit(stream.device()) && suits_tiles(args);
  if (!tiles.fit) return tiles;
  // Hopper's tiles take rows of x that follow each other: for few tokens all of them, whoever they go to; else their
  // rows are gathered where the outputs will be.
  constexpr int64_t kFewTokens = 64;
  const bool hopper = hopper_tiles_fit(stream.device());
  tiles.gathered = hopper && num_tokens > kFewTokens;
  const int64_t likely = likely_rows(args);
  tiles.rows = tile_rows_for(hopper && !tiles.gathered ? num_tokens : likely * 5 / 4, up, stream);
  if (likely < 1024) tiles.rows = std::min(tiles.rows, 128);
  const int64_t used_experts = (num_tokens * args.top_k + likely - 1) / likely;
  tiles.likely_row_tiles = static_cast<int32_t>(used_experts * ((likely + tiles.rows - 1) / tiles.rows));
  return tiles;
}

}  // namespace quire::gpu
