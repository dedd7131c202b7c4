#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels_cuda/comm/rank_words.h"
#include "kernels_cuda/stream.h"

/// Kernels in which ranks write into each other's memory (peer_lines.cuh); all make the same calls in the same order.
namespace quire::gpu {

struct Line;

constexpr int64_t kLineBytes = 16;
/// Data of a unit, what a thread sends at once, and the lines that it takes.
constexpr int64_t kUnitBytes = 16;
constexpr int64_t kLinesPerUnit = 2;

/// Blocks of a kernel: enough to keep a link busy, and few enough to be on the device all at once beside others.
constexpr int kMostPeerBlocks = 128;
constexpr int kTicketsPerCall = 128;

/// What a rank's kernels know of all.
struct PeerView {
  Line* inboxes[kMostRanks];    ///< of each rank, on its device: two buffers
  unsigned long long* tickets;  ///< on this rank's device: calls so far, times kTicketsPerCall
  RankWords* words;
  int64_t buffer_lines;
  int rank;
  int num_ranks;
};

/// x := sum over the ranks of x, or add_to += scale * that sum, for `count` elements.
struct ReduceChunk {
  void* x;
  float* add_to;  ///< or null
  float scale;
  int64_t count;
  /// Units of x that this rank and each other sums up and sends to all; 0 if each rank sums up all for itself.
  int64_t part_units;
  bool aligned;  ///< both arrays, to 16 bytes
};

/// Some rows, and of each rank's columns some, of out := all ranks' columns.
struct GatherChunk {
  const float* x;
  int64_t x_stride;
  float* out;
  int64_t out_stride;
  int rows;
  int first[kMostRanks];    ///< column in out that a rank's first one goes to
  int columns[kMostRanks];  ///< of each rank, the first one's not fewer than others'
  bool aligned;             ///< rows of x and out, and where ranks' columns begin, to 16 bytes
};

void reduce_chunk(DType dtype, const PeerView& peers, const ReduceChunk& chunk, GpuStream& stream);
void gather_chunk(const PeerView& peers, const GatherChunk& chunk, GpuStream& stream);

/// Have the code of what that many ranks launch on the current device: a kernel that is loaded when it is first
/// launched may have to wait for one that waits for it.
void load_reduce_kernels(int num_ranks);
void load_gather_kernels(int num_ranks);

}  // namespace quire::gpu
