// The memory that ranks write into, who reaches it, and from which size on which way is taken.
#include "kernels_cuda/comm/peers.h"

#include "kernels_cuda/comm/cut_messages.h"
#include "kernels_cuda/comm/peer_kernels.h"
#include "kernels_cuda/memory.h"

namespace quire::gpu {
namespace {

/// One of the two buffers of a rank's inbox. Longer messages go in pieces.
constexpr int64_t kBufferBytes = int64_t{16} << 20;
constexpr int64_t kBufferLines = kBufferBytes / kLineBytes;

/// From how many bytes on ranks share the work of summing up. Between two it saves nothing: each sends half of x and
/// half of the sum. Otherwise it pays where what it saves takes longer than a second trip.
constexpr int64_t share_from_bytes(int num_ranks) {
  constexpr int64_t kNever = int64_t{1} << 62;
  return num_ranks <= 2 ? kNever : num_ranks <= 4 ? int64_t{256} << 10 : int64_t{96} << 10;
}

/// Let kernels on `device` write into the memory of `peer`.
bool reach(int device, int peer) {
  int can = 0;
  check(cudaDeviceCanAccessPeer(&can, device, peer), "asking whether GPUs reach each other");
  if (can == 0) return false;
  check(cudaSetDevice(device), "choosing the device");
  const cudaError_t result = cudaDeviceEnablePeerAccess(peer, 0);
  if (result == cudaErrorPeerAccessAlreadyEnabled) {
    vendor::forget_error();
    return true;
  }
  if (result == cudaErrorPeerAccessUnsupported || result == cudaErrorTooManyPeers) {
    vendor::forget_error();
    return false;
  }
  check(result, "letting GPUs reach each other's memory");
  return true;
}

Buffer zeroed(size_t bytes, int device) {
  Buffer buffer = allocate_device(bytes, device);
  check(vendor::clear(buffer.data(), bytes), "clearing memory");
  check(vendor::wait_for_stream(nullptr), "clearing memory");
  return buffer;
}

}  // namespace

struct PeerExchange::State {
  std::vector<int> devices;
  std::vector<PeerView> views;
  std::vector<Buffer> memory;
};

PeerExchange::PeerExchange(std::unique_ptr<State> state) : state_(std::move(state)) {}

/// The memory goes when no rank writes into it any more: kernels end, for none waits for ever. A device that has failed
/// has ended too.
PeerExchange::~PeerExchange() {
  for (const int device : state_->devices) {
    if (cudaSetDevice(device) != cudaSuccess || cudaDeviceSynchronize() != cudaSuccess) vendor::forget_error();
  }
}

std::unique_ptr<PeerExchange> PeerExchange::open(const std::vector<int>& devices, RankWords* words,
                                                 std::string& why_not) {
  for (const int device : devices) {
    for (const int peer : devices) {
      if (device == peer || reach(device, peer)) continue;
      why_not = detail::join_message("cuda:", device, " does not reach the memory of cuda:", peer,
                                     " (nvidia-smi topo -p2p w shows what does)");
      return nullptr;
    }
  }
  auto state = std::make_unique<State>();
  state->devices = devices;
  PeerView all{.inboxes = {},
               .tickets = nullptr,
               .words = words,
               .buffer_lines = kBufferLines,
               .rank = 0,
               .num_ranks = static_cast<int>(devices.size())};
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    state->memory.push_back(zeroed(2 * kBufferBytes, devices[rank]));
    all.inboxes[rank] = static_cast<Line*>(state->memory.back().data());
  }
  for (size_t rank = 0; rank < devices.size(); ++rank) {
    state->memory.push_back(zeroed(sizeof(*all.tickets), devices[rank]));
    all.tickets = static_cast<unsigned long long*>(state->memory.back().data());
    all.rank = static_cast<int>(rank);
    state->views.push_back(all);
    load_reduce_kernels(all.num_ranks);
    load_gather_kernels(all.num_ranks);
  }
  return std::unique_ptr<PeerExchange>(new PeerExchange(std::move(state)));
}

int64_t PeerExchange::bytes_of_rank() {
  return 2 * kBufferBytes + static_cast<int64_t>(sizeof(*PeerView::tickets));
}

void PeerExchange::all_reduce(int rank, const AllReduceArgs& args, GpuStream& stream) {
  const PeerView& peers = state_->views[static_cast<size_t>(rank)];
  cut_reduce(args, peers.num_ranks, kBufferLines, share_from_bytes(peers.num_ranks),
             [&](const ReduceChunk& chunk) { reduce_chunk(args.x.dtype, peers, chunk, stream); });
}

void PeerExchange::all_gather(int rank, const AllGatherArgs& args, GpuStream& stream) {
  const PeerView& peers = state_->views[static_cast<size_t>(rank)];
  cut_gather(args, peers.num_ranks, kBufferLines,
             [&](const GatherChunk& chunk) { gather_chunk(peers, chunk, stream); });
}

}  // namespace quire::gpu
