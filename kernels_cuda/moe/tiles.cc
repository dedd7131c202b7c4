// Whether tensor cores do the products of experts, and how high their tiles are.
#include "kernels_cuda/moe/tiles.h"

#include <algorithm>
#include <cmath>

#include "kernels_cuda/gemm/tile_hopper.h"

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
  const int64_t num_tokens = args.x.shape[0];
  ExpertTiles tiles;
  tiles.fit = stream.device().compute_capability >= 80 && dtype != DType::kFloat32 && args.up->dtype == dtype &&
              args.down->dtype == dtype && args.up->k % 8 == 0 && args.down->k % 8 == 0 && aligned(args.x);
  if (!tiles.fit) return tiles;
  // Hopper's tiles take rows of x that follow each other: for few tokens all of them, whoever they go to; else their
  // rows are gathered where the outputs will be.
  constexpr int64_t kFewTokens = 64;
  const bool hopper = hopper_tiles_fit(stream.device());
  tiles.gathered = hopper && num_tokens > kFewTokens;
  const int64_t likely = likely_rows(num_tokens, args.top_k, args.up->groups);
  tiles.rows = tile_rows_for(hopper && !tiles.gathered ? num_tokens : likely * 5 / 4, up, stream);
  if (likely < 1024) tiles.rows = std::min(tiles.rows, 128);
  return tiles;
}

}  // namespace quire::gpu
