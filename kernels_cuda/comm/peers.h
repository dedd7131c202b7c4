#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/buffer.h"
#include "kernels_cuda/comm/rank_words.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// Ranks that write into each other's memory (peer_lines.cuh). NVIDIA's GPUs only.
/// Thread safety: each rank's calls from a thread of its own.
class PeerExchange {
 public:
  /// Null, with the reason in `why_not`, if there is a device that cannot write into another one's memory.
  /// `devices`: one for each rank; the same one may stand there twice. `words` outlives this.
  static std::unique_ptr<PeerExchange> open(const std::vector<int>& devices, RankWords* words, std::string& why_not);
  ~PeerExchange();

  /// Device memory of each rank.
  static int64_t bytes_of_rank();

  void all_reduce(int rank, const AllReduceArgs& args, GpuStream& stream);
  void all_gather(int rank, const AllGatherArgs& args, GpuStream& stream);

 private:
  struct State;
  explicit PeerExchange(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::gpu
