// Whole blocks of the KV cache, copied within every layer, or to and from page-locked memory of the host, which a
// kernel reaches itself: blocks lie scattered, and a copy of its own for each takes three times as long. The numbers
// come from the host and travel as arguments of the kernel, some hundred pairs and some layers per launch. Block: 16
// KiB of a pair in a layer; thread: four times 16 bytes. Limited by bandwidth, of the bus if the host takes part.
#include <algorithm>

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr int kMaxPairs = 256;
constexpr int kMaxLayers = 64;
constexpr int kThreads = 256;
constexpr int kPerThread = 4;

struct BlockPair {
  int32_t from, to;
};

struct LayerMemory {
  const uint4* from;
  uint4* to;
  int64_t block_vectors;  ///< of 16 bytes
};

/// Below the 4 KiB that arguments may take on any device.
struct Copies {
  LayerMemory layers[kMaxLayers];
  BlockPair pairs[kMaxPairs];
};
static_assert(sizeof(Copies) < 4000);

__global__ void __launch_bounds__(kThreads) copy_blocks_kernel(const __grid_constant__ Copies copies) {
  let_next_start();
  wait_for_previous();
  const LayerMemory layer = copies.layers[blockIdx.z];
  const BlockPair pair = copies.pairs[blockIdx.y];
  const uint4* const from = layer.from + pair.from * layer.block_vectors;
  uint4* const to = layer.to + pair.to * layer.block_vectors;
  const int64_t first = int64_t{blockIdx.x} * kThreads * kPerThread + threadIdx.x;
  uint4 values[kPerThread];
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j * kThreads;
    if (i < layer.block_vectors) values[j] = from[i];
  }
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = first + j * kThreads;
    if (i < layer.block_vectors) to[i] = values[j];
  }
}

}  // namespace

void copy_blocks(const CopyBlocksArgs& args, Stream& stream) {
  constexpr auto kVectorBytes = static_cast<int64_t>(sizeof(uint4));
  const auto to_layers = args.to_layers.empty() ? args.layers : args.to_layers;
  for (size_t layer = 0; layer < args.layers.size(); layer += kMaxLayers) {
    const auto layers = args.layers.subspan(layer, std::min<size_t>(kMaxLayers, args.layers.size() - layer));
    Copies copies{};
    int64_t most = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      QUIRE_CHECK(layers[i].block_bytes % kVectorBytes == 0, "block_bytes=", layers[i].block_bytes);
      copies.layers[i] = {static_cast<const uint4*>(layers[i].data), static_cast<uint4*>(to_layers[layer + i].data),
                          layers[i].block_bytes / kVectorBytes};
      most = std::max(most, copies.layers[i].block_vectors);
    }
    for (size_t first = 0; first < args.from.size(); first += kMaxPairs) {
      const size_t count = std::min<size_t>(kMaxPairs, args.from.size() - first);
      for (size_t i = 0; i < count; ++i) copies.pairs[i] = {args.from[first + i], args.to[first + i]};
      constexpr int64_t kPerBlock = kThreads * kPerThread;
      const dim3 grid(static_cast<unsigned>((most + kPerBlock - 1) / kPerBlock), static_cast<unsigned>(count),
                      static_cast<unsigned>(layers.size()));
      launch("copy_blocks", copy_blocks_kernel, grid, kThreads, 0, as_gpu(stream), copies);
    }
  }
}

}  // namespace quire::gpu
