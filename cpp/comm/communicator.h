#pragma once

#include <memory>
#include <vector>

#include "core/share.h"
#include "core/tensor.h"

namespace quire {

class Stream;

/// Every rank has a part of a sum: x := sum over the ranks of x, or add_to += scale * that sum.
struct AllReduceArgs {
  Tensor x;            ///< [T, D] contiguous, of the type of activations or float32; with `add_to` undefined afterwards
  float scale = 1.0f;  ///< with `add_to`
  Tensor add_to;       ///< [T, D] contiguous float32, the same on every rank; may be absent
};

/// Every rank has some columns of a matrix: out := all of them. They are dealt out by share_of_rank().
struct AllGatherArgs {
  Tensor x;    ///< [R, this rank's columns] contiguous float32
  Tensor out;  ///< [R, C] contiguous float32
};

/// What the ranks of a model say to each other. Every rank has one, and all make the same calls, with the same shapes,
/// in the same order; each call is a part of that rank's stream's work, and may be recorded where the backend records
/// graphs. Results are equal to the last bit on all ranks, and from run to run.
/// Thread safety: one caller at a time, but for abort().
class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int num_ranks() const = 0;

  /// Raises: kDevice after abort(), or if a rank has not come for so long that it must be lost.
  virtual void all_reduce(const AllReduceArgs& args, Stream& stream) = 0;
  virtual void all_gather(const AllGatherArgs& args, Stream& stream) = 0;

  /// A rank has failed: whoever waits for it, now or later, fails too. From any thread, on any one of the communicators
  /// that were made together.
  virtual void abort() noexcept = 0;
};

/// One for each rank, in their order.
using Communicators = std::vector<std::unique_ptr<Communicator>>;

}  // namespace quire
