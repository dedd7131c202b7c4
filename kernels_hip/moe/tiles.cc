#include "kernels_cuda/moe/tiles.h"

namespace quire::gpu {

/// multiply_plain() does all products of experts.
ExpertTiles choose_expert_tiles(const MoeArgs&, const TileProduct&, const GpuStream&) {
  return {};
}

}  // namespace quire::gpu
