// Whether matrix cores do the products of experts, and how high their tiles are.
#include "kernels_cuda/moe/tiles.h"

#include <algorithm>
#include <cmath>

#include "kernels_hip/common/matrix_lanes.h"

namespace quire::gpu {
namespace {

bool aligned(const Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.strides[0] * dtype_bytes(tensor.dtype) % 16 == 0;
}

/// Rows that an expert in use has, in the mean, if tokens go anywhere.
int64_t likely_rows(int64_t num_tokens, int32_t top_k, int64_t num_experts) {
  const double share = std::min(1.0, static_cast<double>(top_k) / static_cast<double>(num_experts));
  const double used = 1.0 - std::pow(1.0 - share, static_cast<double>(num_tokens));
  return static_cast<int64_t>(std::ceil(static_cast<double>(num_tokens) * share / std::max(used, 1e-9)));
}

}  // namespace

ExpertTiles choose_expert_tiles(const MoeArgs& args, const TileProduct& up, const GpuStream& stream) {
  const DType dtype = args.x.dtype;
  ExpertTiles tiles;
  tiles.fit = matrix_lanes(stream.device()) != 0 && dtype != DType::kFloat32 && args.up->dtype == dtype &&
              args.down->dtype == dtype && args.up->k % 8 == 0 && args.down->k % 8 == 0 && aligned(args.x);
  if (!tiles.fit) return tiles;
  const int64_t likely = likely_rows(args.x.shape[0], args.top_k, args.up->groups);
  tiles.rows = tile_rows_for(likely * 5 / 4, up, stream);
  return tiles;
}

}  // namespace quire::gpu
