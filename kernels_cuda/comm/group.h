#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/buffer.h"
#include "kernels_cuda/comm/library.h"
#include "kernels_cuda/comm/peers.h"
#include "kernels_cuda/comm/rank_words.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// The ranks of a model on GPUs of this process: who sends what in which way, and what they know of each other's end.
///
/// Messages go by our own kernels where GPUs reach each other's memory, large ones by the vendor's library where it is
/// there too; by the library alone where they do not. Variables, read when the group is made:
///   QUIRE_ALL_REDUCE=own|library   one of the two ways only
///   QUIRE_COMM_TIMEOUT_MS=10000    how long a rank may be late
/// Thread safety: each rank's calls from a thread of its own; abort() and ready() from any.
class RankGroup {
 public:
  /// `devices`: of each rank, in their order. `deterministic`: no sum in the library's order.
  /// Raises: kUnsupported with what is missing and what to do; kInvalidArgument for a variable; kOutOfMemory.
  static std::shared_ptr<RankGroup> make(std::vector<int> devices, bool deterministic);

  int num_ranks() const { return static_cast<int>(devices_.size()); }

  /// Raises, these and what follows: kDevice if the ranks have been stopped, for whatever reason.
  void all_reduce(int rank, const AllReduceArgs& args, GpuStream& stream);
  void all_gather(int rank, const AllGatherArgs& args, GpuStream& stream);

  void check();
  /// What was enqueued is done.
  void wait_for_stream(vendor::StreamHandle stream);
  void wait_for_event(vendor::EventHandle event);

  /// Wait until the library has started, which it does in the background. Raises: kDevice if it could not.
  void ready();

  void abort() noexcept { stop(kAborted); }

 private:
  using Clock = std::chrono::steady_clock;

  RankGroup(std::vector<int> devices, bool deterministic) : devices_(std::move(devices)), is_fixed_(deterministic) {}

  void read_limits();
  void open_ways();
  void stop(StopReason reason) noexcept;
  std::string why_stopped() const;
  bool takes_library(int64_t bytes) const;
  void sum_gathered(int rank, const AllReduceArgs& args, GpuStream& stream);
  void gather_by_library(int rank, const AllGatherArgs& args, GpuStream& stream);
  template <typename Ask>
  void wait_watchfully(Ask ask);

  const std::vector<int> devices_;
  const bool is_fixed_;
  std::chrono::milliseconds library_limit_{};
  Buffer words_memory_;
  RankWords* words_ = nullptr;
  std::unique_ptr<PeerExchange> peers_;
  std::unique_ptr<CollectiveLibrary> library_;
  std::vector<Buffer> scratch_;  ///< of each rank, for what the library has gathered, where it does all
};

/// One for each rank; the group lives as long as one of them.
Communicators communicators_of(const std::shared_ptr<RankGroup>& group);

}  // namespace quire::gpu
