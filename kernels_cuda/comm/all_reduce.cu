// x := sum over the ranks of x, or add_to += scale * that sum, sums in float32 and in the order of ranks: the same bits
// on every rank and for every size. Thread: units of 16 bytes of x, a grid of threads further apart. How ranks send is
// said in peer_lines.cuh, what a thread does in peer_exchange.cuh; one-shot and two-shot as in vLLM's custom all-reduce
// (vllm-project/vllm:csrc/custom_all_reduce.cuh), with writes in place of reads. Small messages take the time of a
// launch, a store over the link and a few loads; large ones are limited by the link, of which they use half.
#include <algorithm>

#include "kernels_cuda/comm/peer_exchange.cuh"
#include "kernels_cuda/common/launch.cuh"

namespace quire::gpu {
namespace {

/// Of a block; what comes from many ranks takes registers.
template <int kRanks>
constexpr int kMostThreads = kRanks <= 2 ? 512 : 256;
constexpr int kLeastThreads = 128;

__device__ inline UnitRange own_range() {
  return {int64_t{blockIdx.x} * blockDim.x + threadIdx.x, int64_t{gridDim.x} * blockDim.x};
}

template <typename T, int kRanks>
__global__ void __launch_bounds__(kMostThreads<kRanks>)
    at_once_kernel(const __grid_constant__ PeerView peers, const __grid_constant__ ReduceChunk chunk) {
  let_next_start();
  wait_for_previous();
  const UnitRange range = own_range();
  const Unit<T> own = load_unit(static_cast<const T*>(chunk.x), range.first, chunk.count, chunk.aligned);
  reduce_at_once<T, kRanks>(peers, begin_call(peers), chunk, range, own);
}

template <typename T, int kRanks, bool kAdds>
__global__ void __launch_bounds__(kMostThreads<kRanks>)
    in_parts_kernel(const __grid_constant__ PeerView peers, const __grid_constant__ ReduceChunk chunk) {
  let_next_start();
  wait_for_previous();
  reduce_in_parts<T, kRanks, kAdds>(peers, begin_call(peers), chunk, own_range());
}

struct Choice {
  void (*kernel)(PeerView, ReduceChunk);
  int most_threads;
};

template <typename T, int kRanks>
Choice choose_for(const ReduceChunk& chunk) {
  constexpr int kThreads = kMostThreads<kRanks>;
  if constexpr (kRanks > 2) {
    if (chunk.part_units > 0 && chunk.add_to != nullptr) return {in_parts_kernel<T, kRanks, true>, kThreads};
    if (chunk.part_units > 0) return {in_parts_kernel<T, kRanks, false>, kThreads};
  }
  return {at_once_kernel<T, kRanks>, kThreads};
}

Choice choose_kernel(DType dtype, const ReduceChunk& chunk, int num_ranks) {
  Choice choice{};
  with_type(dtype, [&](auto type) {
    using T = decltype(type);
    choice = num_ranks <= 2   ? choose_for<T, 2>(chunk)
             : num_ranks <= 4 ? choose_for<T, 4>(chunk)
                              : choose_for<T, kMostRanks>(chunk);
  });
  return choice;
}

int64_t num_units(DType dtype, int64_t count) {
  const int64_t each = kUnitBytes / dtype_bytes(dtype);
  return (count + each - 1) / each;
}

}  // namespace

void reduce_chunk(DType dtype, const PeerView& peers, const ReduceChunk& chunk, GpuStream& stream) {
  const Choice choice = choose_kernel(dtype, chunk, peers.num_ranks);
  const int64_t units = chunk.part_units > 0 ? chunk.part_units : num_units(dtype, chunk.count);
  // A small message is spread over several multiprocessors, a large one over all blocks.
  const int64_t each = (units + kMostPeerBlocks - 1) / kMostPeerBlocks;
  const int64_t threads = std::clamp<int64_t>((each + 31) / 32 * 32, kLeastThreads, choice.most_threads);
  const int64_t blocks = std::min<int64_t>((units + threads - 1) / threads, kMostPeerBlocks);
  launch("all_reduce", choice.kernel, static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream, peers,
         chunk);
}

void load_reduce_kernels(int num_ranks) {
  float none = 0.0f;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const bool adds : {false, true}) {
      for (const int64_t part_units : {0, 1}) {
        ReduceChunk chunk{};
        chunk.add_to = adds ? &none : nullptr;
        chunk.part_units = part_units;
        check(vendor::find_code(choose_kernel(dtype, chunk, num_ranks).kernel), "loading the kernels of ranks");
      }
    }
  }
}

}  // namespace quire::gpu
