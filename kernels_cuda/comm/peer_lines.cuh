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
// All but the kernels themselves compiles for a processor too: tests/cpp/accelerators/peer_exchange_test.cc.
#pragma once

#include <cstdint>

#include "kernels_cuda/comm/peer_kernels.h"
#include "kernels_cuda/common/vendor.cuh"

#if !defined(__CUDACC__)
#include <atomic>
#include <chrono>
#include <thread>
#endif

namespace quire::gpu {

/// Two pieces of data, each with the number of the call in its upper half.
struct alignas(16) Line {
  uint64_t halves[2];
};

// Memory that other devices, or the host, write and read meanwhile. 8 bytes are stored and loaded as one; two of them
// in one instruction.

__device__ inline void store_line(Line* to, const Line& line) {
#if defined(__CUDACC__)
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(line.halves[0]), "l"(line.halves[1])
               : "memory");
#else
  std::atomic_ref(to->halves[0]).store(line.halves[0], std::memory_order_relaxed);
  std::atomic_ref(to->halves[1]).store(line.halves[1], std::memory_order_relaxed);
#endif
}

__device__ inline Line load_line(Line* from) {
  Line line;
#if defined(__CUDACC__)
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(line.halves[0]), "=l"(line.halves[1])
               : "l"(from)
               : "memory");
#else
  line.halves[0] = std::atomic_ref(from->halves[0]).load(std::memory_order_relaxed);
  line.halves[1] = std::atomic_ref(from->halves[1]).load(std::memory_order_relaxed);
#endif
  return line;
}

__device__ inline uint32_t load_word(uint32_t* from) {
#if defined(__CUDACC__)
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
#else
  return std::atomic_ref(*from).load(std::memory_order_relaxed);
#endif
}

__device__ inline void store_word(uint32_t* to, uint32_t value) {
#if defined(__CUDACC__)
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
#else
  std::atomic_ref(*to).store(value, std::memory_order_release);
#endif
}

__device__ inline uint64_t clock_ns() {
#if defined(__CUDACC__)
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
#else
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
#endif
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

#if defined(__CUDACC__)
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
#endif

/// A thread's patience: it looks up now and then whether it should go on waiting.
class Patience {
 public:
  __device__ Patience(const PeerView& peers, const PeerCall& call)
      : words_(peers.words), rank_(peers.rank), is_early_(call.is_early) {}

  /// To be asked each time that data of rank `peer` has not come. False: give up, for good.
  __device__ bool lasts(int peer) {
#if !defined(__CUDACC__)
    std::this_thread::yield();
#endif
    return ++polls_ % kPollsPerLook != 0 || look_up(peer);
  }

 private:
  /// What is looked at lies with the host, which takes as long as two polls; some milliseconds in all.
  static constexpr uint32_t kPollsPerLook = 2048;

  __device__ bool look_up(int peer) {
    const uint64_t now = clock_ns();
    if (begin_ns_ == 0) begin_ns_ = now;
    const bool is_over = now - begin_ns_ > (is_early_ ? words_->first_limit_ns : words_->limit_ns);
    if (load_word(&words_->stop) == kGoOn && !is_over) return true;
    if (load_word(&words_->missing[rank_]) == 0) store_word(&words_->missing[rank_], static_cast<uint32_t>(peer) + 1);
    if (load_word(&words_->stop) == kGoOn) store_word(&words_->stop, kWaitedTooLong);
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
