#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels_cuda/common/vendor.h"

namespace quire::gpu {

/// The vendor's library for collectives, NCCL or RCCL, opened at run time: one member of its group for each rank.
/// Thread safety: each rank's calls from a thread of its own; abort() from any.
class CollectiveLibrary {
 public:
  /// Null, with the reason and what to do in `why_not`, if it is not there. The group is made in the background, which
  /// takes seconds. `devices`: one for each rank, none twice.
  static std::unique_ptr<CollectiveLibrary> open(std::vector<int> devices, std::string& why_not);
  /// Nothing of what was enqueued may still run, and no graph may be left that it was recorded in.
  ~CollectiveLibrary();

  /// Wait until the group is made. Raises: kDevice if that has failed, each time.
  void ready();

  /// x := sum over the ranks of x, in an order that depends on `count`.
  void all_reduce(int rank, void* x, size_t count, DType dtype, vendor::StreamHandle stream);
  /// out := `bytes` of each rank, in their order.
  void all_gather(int rank, const void* x, void* out, size_t bytes, vendor::StreamHandle stream);

  /// End all that runs and refuse what comes. The second time does nothing.
  void abort() noexcept;

 private:
  struct State;
  explicit CollectiveLibrary(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::gpu
