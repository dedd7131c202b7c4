// What the parts of the kernel of a chain share: a block's shared memory, and how its threads go through it.
#pragma once

#include <cstddef>

#include "kernels_cuda/chain/program.h"
#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/instructions.cuh"

namespace quire::gpu {

/// Warps that ask for weights, and rows of a stage that each of them asks for.
constexpr int kBringWarps = 4;
constexpr int kBringThreads = kBringWarps * 32;
constexpr int kLinesOfWarp = kTileLines / kBringWarps;
static_assert(kTileLines / 2 % kLinesOfWarp == 0);
/// Warps that finish tiles, in turn: those that multiply need not wait for each other, nor for residuals.
constexpr int kFinishWarps = 4;
static_assert(kSumSlots % kFinishWarps == 0);
/// How many links ahead parameters are brought near.
constexpr int kLinksAhead = 2;
/// Registers of a thread that computes, and of any other one; they are given and taken by warpgroups.
constexpr int kComputeRegisters = 216, kOtherRegisters = 40;
constexpr int kThreads = kRowThreads + kBringThreads + kFinishWarps * 32;
static_assert(kRowThreads * kComputeRegisters + (kThreads - kRowThreads) * kOtherRegisters <= 64 * 1024);
static_assert(kBringWarps % 4 == 0 && kFinishWarps % 4 == 0);

/// A block's shared memory.
struct Room {
  std::byte* stages;
  std::byte* work;  ///< a row x; or what warps tell each other about attention
  float* sums;      ///< [slots][warps][lines] of a tile
  float* norm_sums;
  uint32_t full;   ///< barriers: a stage holds what it should
  uint32_t free;   ///< nobody reads it any more
  uint32_t begun;  ///< barriers of slots: which tile they are for is known
  uint32_t summed;
  uint32_t finished;
  int* tiles;       ///< which tile a stage is of; -1: there is none, the op ends here
  int* slot_tiles;  ///< the same of slots
  int* claimed;     ///< [2] the tiles that come next
  int* note;        ///< of one thread to the others

  __device__ Room(std::byte* shared, const Program& program)
      : stages(shared),
        work(stages + program.num_stages * kStageBytes),
        sums(reinterpret_cast<float*>(work + program.room_bytes)),
        norm_sums(sums + kSumSlots * kSlotFloats),
        full(shared_address(sums) + kSumBytes),
        free(full + kMostStages * 8),
        begun(free + kMostStages * 8),
        summed(begun + kSumSlots * 8),
        finished(summed + kSumSlots * 8),
        tiles(
            reinterpret_cast<int*>(reinterpret_cast<std::byte*>(sums) + kSumBytes + kMostStages * 16 + kSumSlots * 24)),
        slot_tiles(tiles + kMostStages),
        claimed(slot_tiles + kSumSlots),
        note(claimed + 2) {}
};

/// Have the parameters of a link brought near, to where all threads of the multiprocessor find them: whoever reads them
/// first waits for memory that is busy with weights.
__device__ inline void bring_near(const Link& link) {
  constexpr int kWordsOfLine = 16;
  const auto* const words = reinterpret_cast<const uint32_t*>(&link);
#pragma unroll
  for (int i = 0; i < static_cast<int>(sizeof(Link) / sizeof(uint32_t)); i += kWordsOfLine) use(words[i]);
}

/// A stage, as those who fill the ring and those who empty it go round.
struct Position {
  int stage = 0;
  unsigned parity = 0;
  __device__ void advance(int num_stages) {
    if (++stage < num_stages) return;
    stage = 0;
    parity ^= 1;
  }
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
