// out := all ranks' columns of a float32 matrix. Thread: units of 4 elements of each rank's rows, taken as one behind
// the other, a grid of threads further apart. How ranks send is said in peer_lines.cuh, what a thread does in
// peer_exchange.cuh. Limited by the link, of which half is used.
#include <algorithm>

#include "kernels_cuda/comm/peer_exchange.cuh"
#include "kernels_cuda/common/launch.cuh"

namespace quire::gpu {
namespace {

constexpr int kThreads = 256;

template <int kRanks>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ PeerView peers, const __grid_constant__ GatherChunk chunk) {
  let_next_start();
  wait_for_previous();
  const UnitRange range{int64_t{blockIdx.x} * kThreads + threadIdx.x, int64_t{gridDim.x} * kThreads};
  gather_columns<kRanks>(peers, begin_call(peers), chunk, range);
}

using Kernel = void (*)(PeerView, GatherChunk);

Kernel choose_kernel(int num_ranks) {
  return num_ranks <= 2 ? gather_kernel<2> : num_ranks <= 4 ? gather_kernel<4> : gather_kernel<kMostRanks>;
}

}  // namespace

void gather_chunk(const PeerView& peers, const GatherChunk& chunk, GpuStream& stream) {
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>((gather_units(chunk, 0) + kThreads - 1) / kThreads, kMostPeerBlocks));
  launch("all_gather", choose_kernel(peers.num_ranks), blocks, kThreads, 0, stream, peers, chunk);
}

void load_gather_kernels(int num_ranks) {
  check(vendor::find_code(choose_kernel(num_ranks)), "loading the kernels of ranks");
}

}  // namespace quire::gpu
