#pragma once

#include <cstddef>
#include <memory>

#include "backend/ops/attention.h"
#include "backend/ops/fused.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {

class GpuStream;
struct StreamRows;

/// Ops of a step of one token that a stream has taken but not enqueued yet: several that follow each other become one
/// kernel, in which weights are read with hardly a pause. In what order things happen on the stream stays the same,
/// since it asks for them before anything else is enqueued (GpuStream::handle).
class Chain {
 public:
  virtual ~Chain() = default;

  /// Take an op, if it can be a link of a chain. What its arguments point to in the device's memory, and weights, must
  /// be there until it has run.
  virtual bool take(const StreamRows& args, const GpuStream& stream) = 0;
  virtual bool take(const RopeKvWriteArgs& args, const GpuStream& stream) = 0;
  virtual bool take(const AttentionArgs& args, const GpuStream& stream) = 0;

  virtual bool empty() const = 0;
  /// Enqueue what has been taken. While that goes on nothing is taken.
  virtual void enqueue(const GpuStream& stream) = 0;
};

/// Null where there is no such kernel: below compute capability 9.0, and for HIP. `device` must outlive it.
std::unique_ptr<Chain> make_chain(const Device& device);

/// What a chain needs of Resources::scratch and Resources::counters.
size_t chain_scratch_bytes(const Device& device);
size_t chain_counters(const Device& device);
/// And of Resources::exchange.
size_t chain_exchange_entries(const Device& device);

}  // namespace quire::gpu
