// What the parts of the kernel of a chain share: a block's shared memory, and how its threads go through it.
#pragma once

#include <cstddef>

#include "kernels_cuda/chain/program.h"
#include "kernels_cuda/chain/ring.cuh"
#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/instructions.cuh"

namespace quire::gpu {

/// Warps that ask for weights, and rows of a stage that each of them asks for.
constexpr int kBringWarps = 4;
constexpr int kBringThreads = kBringWarps * 32;
constexpr int kLinesOfWarp = kTileLines / kBringWarps;
constexpr int kThreads = kRowThreads + kBringThreads;

/// A block's shared memory.
struct Room {
  std::byte* stages;
  std::byte* work;  ///< a row x; or what warps tell each other about attention
  float* sums;      ///< of the warps, for two tiles in turn
  uint32_t full;    ///< barriers: a stage holds what it should
  uint32_t free;    ///< nobody reads it any more
  int* tiles;       ///< which tile a stage is of; -1: there is none, the op ends here
  int* claimed;     ///< [2] the tiles that come next
  int* note;        ///< of one thread to the others

  __device__ Room(std::byte* shared, const Program& program)
      : stages(shared),
        work(stages + program.num_stages * kStageBytes),
        sums(reinterpret_cast<float*>(work + program.room_bytes)),
        full(shared_address(sums) + kSumBytes),
        free(full + kMostStages * 8),
        tiles(reinterpret_cast<int*>(reinterpret_cast<std::byte*>(sums) + kSumBytes + kMostStages * 16)),
        claimed(tiles + kMostStages),
        note(claimed + 2),
        links_(reinterpret_cast<Link*>(reinterpret_cast<std::byte*>(sums) + kSumBytes + kSignalBytes)) {}

  /// What the parameters say of a link. Where they lie they are read at the pace of memory that is busy with weights.
  __device__ const Link& link(int i) const { return links_[i]; }

  /// By all threads, before a barrier.
  __device__ void fetch_links(const Program& program) const {
    static_assert(sizeof(Link) % 8 == 0 && offsetof(Program, links) % 8 == 0);
    const auto* const from = reinterpret_cast<const uint64_t*>(&program.links);
    auto* const to = reinterpret_cast<uint64_t*>(links_);
    const int words = program.num_links * static_cast<int>(sizeof(Link) / 8);
    for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
      to[i] = load_parameter(from + i);
    }
  }

 private:
  Link* links_;
};

__device__ inline int units_per_tile(const RowProduct& product) {
  return product.rule.gated ? kTileLines / 2 : kTileLines;
}

__device__ inline int num_tiles(const RowProduct& product) {
  return (product.units + units_per_tile(product) - 1) / units_per_tile(product);
}

/// Tiles that a block takes at a time: copies of so many are under way no less long than it takes to claim the next
/// ones.
__device__ inline int tiles_at_once(const RowProduct& product) {
  constexpr int kColumns = 4096;
  return max(kColumns / product.k, 1);
}

/// Of the threads that compute.
__device__ inline void compute_barrier() {
  named_barrier<kRowThreads>(1);
}

}  // namespace quire::gpu
