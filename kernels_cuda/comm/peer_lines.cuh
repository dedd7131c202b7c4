// How ranks send each other numbers: by writing into the other one's memory. Nothing but the data is written and
// nothing but the data is waited for: each 8 bytes are 4 of data and the number of the call, stored as one, so that who
// finds the number has the data. A message takes one trip over the link and no fence, and twice its bytes. (The idea is
// that of NCCL's protocol LL: NVIDIA/nccl:src/device/prims_ll.h.)
//
// An inbox has two buffers, which calls take in turn: call e has buffer e & 1. Why none is overwritten while it is
// read:
// - A rank writes for call e when its call e - 1 has ended (wait_for_previous(), stream order).
// - Call e - 1 ends when every other rank's data of e - 1 has come: each sends each other at least one line per call.
// - Those ranks sent it after their call e - 2 had ended, and with it all their reads of buffer e & 1.
// The order is that of kernels in a stream and of a value that was read after it was written; as kernels begin and end
// with fences, it is one of PTX's memory model too. It does not depend on what calls do, on their sizes or grids.
//
// The number of a call is counted in device memory, so that recorded calls may be replayed. In an inbox every 8 bytes
// are 0 or end in the number of the call that wrote them. A number comes again after 2^32 - 1 calls: a line would have
// to stay unwritten for exactly so long to be taken for a new one.
//
// What one of their threads does is also called by a processor's threads: tests/cpp/accelerators/peer_exchange_test.cc.
#pragma once

#include <cstdint>

#include "kernels_cuda/comm/peer_kernels.h"
#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/common/vendor.cuh"

namespace quire::gpu {

/// Two pieces of data, each with the number of the call in its upper half.
struct alignas(16) Line {
  uint64_t halves[2];
};

__device__ inline void store_line(Line* to, const Line& line) {
  store_to_system(reinterpret_cast<ulonglong2*>(to), ulonglong2{line.halves[0], line.halves[1]});
}

__device__ inline Line load_line(const Line* from) {
  const ulonglong2 pair = load_from_system(reinterpret_cast<const ulonglong2*>(from));
  return {{pair.x, pair.y}};
}

/// One call of all ranks.
struct PeerCall {
  uint32_t number;     ///< never 0, which is what a new inbox holds
  int64_t first_line;  ///< of the inbox's buffer
  bool is_early;       ///< one of the first, in which ranks may be late
};

__device__ inline PeerCall peer_call(uint64_t count, const PeerView& peers) {
  constexpr uint64_t kFirstCalls = 64;
  return {.number = static_cast<uint32_t>(count % 0xffffffffu) + 1,
          .first_line = static_cast<int64_t>(count & 1) * peers.buffer_lines,
          .is_early = count < kFirstCalls};
}

/// Which call this is. Every block adds its share of kTicketsPerCall to what is counted, so that the quotient is the
/// same for all blocks of a call and one more for the next: there is no last block to be found.
/// All threads of the block must come, after wait_for_previous().
__device__ inline PeerCall begin_call(const PeerView& peers) {
  static_assert(kMostPeerBlocks <= kTicketsPerCall);
  __shared__ unsigned long long count;
  if (threadIdx.x == 0) {
    const unsigned long long share = blockIdx.x == 0 ? kTicketsPerCall - (gridDim.x - 1) : 1;
    count = atomicAdd(peers.tickets, share) / kTicketsPerCall;
  }
  __syncthreads();
  return peer_call(count, peers);
}

/// A thread's patience: it looks up now and then whether it should go on waiting.
class Patience {
 public:
  __device__ Patience(const PeerView& peers, const PeerCall& call)
      : words_(peers.words), rank_(peers.rank), is_early_(call.is_early) {}

  /// To be asked each time that data of rank `peer` has not come. False: give up, for good.
  __device__ bool lasts(int peer) {
    pause_between_polls();
    return ++polls_ % kPollsPerLook != 0 || look_up(peer);
  }

 private:
  /// What is looked at lies with the host, which takes as long as two polls; some milliseconds in all.
  static constexpr uint32_t kPollsPerLook = 2048;

  __device__ bool look_up(int peer) {
    const uint64_t now = clock_ns();
    if (begin_ns_ == 0) begin_ns_ = now;
    const bool is_over = now - begin_ns_ > (is_early_ ? words_->first_limit_ns : words_->limit_ns);
    if (load_from_system(&words_->stop) == kGoOn && !is_over) return true;
    if (load_from_system(&words_->missing[rank_]) == 0)
      release_to_system(&words_->missing[rank_], static_cast<uint32_t>(peer) + 1);
    if (load_from_system(&words_->stop) == kGoOn) release_to_system(&words_->stop, kWaitedTooLong);
    return false;
  }

  RankWords* words_;
  int rank_;
  bool is_early_;
  uint32_t polls_ = 0;
  uint64_t begin_ns_ = 0;
};

// A rank's part of a message is a list of units of kWords words each; unit u is thread u's to send and another thread
// u's to receive. Its lines are 32 apart, so that a warp writes and reads whole lines of the memory.

template <int kWords>
__device__ inline int64_t line_of(int64_t unit, int piece) {
  return unit / 32 * (16 * kWords) + piece * 32 + unit % 32;
}

/// `slot`: where the receiver keeps what comes from this rank.
template <int kWords>
__device__ inline void send(Line* slot, int64_t unit, const uint32_t (&words)[kWords], uint32_t number) {
  const uint64_t mark = uint64_t{number} << 32;
#pragma unroll
  for (int piece = 0; piece < kWords / 2; ++piece) {
    store_line(slot + line_of<kWords>(unit, piece), {{words[2 * piece] | mark, words[2 * piece + 1] | mark}});
  }
}

/// Lines on their way: peek() asks for them, receive() waits until they are those of this call. So that a thread can
/// ask for those of all ranks before it waits for one.
template <int kWords>
struct Arrival {
  Line lines[kWords / 2];

  __device__ void peek(Line* slot, int64_t unit) {
#pragma unroll
    for (int piece = 0; piece < kWords / 2; ++piece) lines[piece] = load_line(slot + line_of<kWords>(unit, piece));
  }

  __device__ bool is_of(uint32_t number) const {
    bool all = true;
#pragma unroll
    for (int piece = 0; piece < kWords / 2; ++piece) {
      all = all && static_cast<uint32_t>(lines[piece].halves[0] >> 32) == number &&
            static_cast<uint32_t>(lines[piece].halves[1] >> 32) == number;
    }
    return all;
  }

  /// False if it was given up.
  __device__ bool receive(Line* slot, int64_t unit, uint32_t number, int peer, Patience& patience,
                          uint32_t (&words)[kWords]) {
    while (!is_of(number)) {
      if (!patience.lasts(peer)) return false;
      peek(slot, unit);
    }
#pragma unroll
    for (int i = 0; i < kWords; ++i) words[i] = static_cast<uint32_t>(lines[i / 2].halves[i % 2]);
    return true;
  }
};

}  // namespace quire::gpu
