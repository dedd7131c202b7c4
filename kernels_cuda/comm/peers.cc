// How messages are cut for the kernels in which ranks write into each other's memory, and the memory for it.
#include "kernels_cuda/comm/peers.h"

#include <algorithm>

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

constexpr int64_t round_down_units(int64_t units) {
  return units / 32 * 32;
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

void PeerExchange::all_reduce(int rank, const AllReduceArgs& args, const GpuStream& stream) {
  const PeerView& peers = state_->views[static_cast<size_t>(rank)];
  const int64_t element_bytes = dtype_bytes(args.x.dtype), per_unit = kUnitBytes / element_bytes;
  ReduceChunk chunk{
      .x = args.x.data,
      .add_to = args.add_to ? args.add_to.as<float>() : nullptr,
      .scale = args.scale,
      .count = 0,
      .part_units = 0,
      .aligned =
          (reinterpret_cast<uintptr_t>(args.x.data) | reinterpret_cast<uintptr_t>(args.add_to.data)) % kUnitBytes == 0};
  const int64_t count = args.x.size(), units = (count + per_unit - 1) / per_unit;
  // Lines for a unit of each rank, and how many units a buffer has room for.
  const int64_t most_at_once = round_down_units(kBufferLines / (peers.num_ranks * kLinesPerUnit));
  const int64_t sum_lines = args.add_to ? per_unit / 2 : kLinesPerUnit;
  const int64_t most_of_part = round_down_units(kBufferLines / (peers.num_ranks * (kLinesPerUnit + sum_lines)));
  for (int64_t done = 0; done < units;) {
    const int64_t left = units - done;
    const bool shared = left * kUnitBytes >= share_from_bytes(peers.num_ranks);
    const int64_t now = std::min(left, shared ? most_of_part * peers.num_ranks : most_at_once);
    chunk.part_units = shared ? (now + peers.num_ranks - 1) / peers.num_ranks : 0;
    chunk.count = std::min(now * per_unit, count - done * per_unit);
    chunk.x = static_cast<std::byte*>(args.x.data) + done * kUnitBytes;
    if (args.add_to) chunk.add_to = args.add_to.as<float>() + done * per_unit;
    reduce_chunk(args.x.dtype, peers, chunk, stream);
    done += now;
  }
}

void PeerExchange::all_gather(int rank, const AllGatherArgs& args, const GpuStream& stream) {
  const PeerView& peers = state_->views[static_cast<size_t>(rank)];
  const int64_t rows = args.out.shape[0], columns = args.out.shape[1];
  const int64_t widest = share_of_rank(columns, 0, peers.num_ranks).count;
  const int64_t most = kBufferLines / (peers.num_ranks * kLinesPerUnit) / 32 * 32 * 4;  // elements of a rank
  const int64_t most_columns = std::min(widest, most), most_rows = std::max<int64_t>(most / most_columns, 1);
  for (int64_t column = 0; column < widest; column += most_columns) {
    for (int64_t row = 0; row < rows; row += most_rows) {
      GatherChunk chunk{.x = args.x.as<const float>() + row * args.x.strides[0] + column,
                        .x_stride = args.x.strides[0],
                        .out = args.out.as<float>() + row * args.out.strides[0],
                        .out_stride = args.out.strides[0],
                        .rows = static_cast<int>(std::min(most_rows, rows - row)),
                        .first = {},
                        .columns = {},
                        .aligned = true};
      int64_t offsets = chunk.x_stride | chunk.out_stride;
      for (int r = 0; r < peers.num_ranks; ++r) {
        const Share share = share_of_rank(columns, r, peers.num_ranks);
        chunk.first[r] = static_cast<int>(share.first + column);
        chunk.columns[r] = static_cast<int>(std::clamp<int64_t>(share.count - column, 0, most_columns));
        if (chunk.columns[r] > 0) offsets |= chunk.first[r] | chunk.columns[r];
      }
      chunk.aligned = offsets % 4 == 0 &&
                      (reinterpret_cast<uintptr_t>(chunk.x) | reinterpret_cast<uintptr_t>(chunk.out)) % kUnitBytes == 0;
      gather_chunk(peers, chunk, stream);
    }
  }
}

}  // namespace quire::gpu
