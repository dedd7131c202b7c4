#pragma once

#include <memory>

#include "backend/ops/fused.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {

class GpuStream;

/// Products of 2 to 8 rows that a stream has taken but not enqueued yet: several that follow each other become one
/// kernel (rows.cu), in which weights are read with hardly a pause. As a Chain (chain.h) is for the ops of one row.
class RowsChain {
 public:
  virtual ~RowsChain() = default;

  /// Whether an op can be a link.
  virtual bool fits(const LinearArgs& args) const = 0;
  virtual bool fits(const NormedLinearArgs& args) const = 0;
  /// Take one that can. What its arguments point to in the device's memory, and weights, must be there until it has
  /// run.
  virtual void take(const LinearArgs& args, const GpuStream& stream) = 0;
  virtual void take(const NormedLinearArgs& args, const GpuStream& stream) = 0;

  virtual bool empty() const = 0;
  /// Enqueue what has been taken. While that goes on nothing is taken.
  virtual void enqueue(const GpuStream& stream) = 0;
};

/// Null where there is no such kernel: with other compute capabilities than 9.0, for HIP, and where results must not
/// depend on the number of rows. It has one of the entries of Resources::exchange that a Chain leaves free (chain.cc).
/// `device` must outlive it.
std::unique_ptr<RowsChain> make_rows_chain(const Device& device, bool deterministic);

}  // namespace quire::gpu
