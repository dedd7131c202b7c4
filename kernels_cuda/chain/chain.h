#pragma once

#include <cstddef>
#include <memory>

#include "backend/ops/attention.h"
#include "backend/ops/fused.h"
#include "kernels_cuda/common/device.h"
#include "kernels_cuda/put_off.h"

namespace quire::gpu {

struct StreamRows;

/// Ops of a step of one token: several that follow each other become one kernel, in which weights are read with hardly
/// a pause.
class Chain : public PutOff {
 public:
  /// Take an op, if it can be a link of a chain. If not of this one, those before are enqueued and it begins another.
  virtual bool take(const StreamRows& args, GpuStream& stream) = 0;
  virtual bool take(const RopeKvWriteArgs& args, GpuStream& stream) = 0;
  virtual bool take(const AttentionArgs& args, GpuStream& stream) = 0;
};

/// Null where there is no such kernel: below compute capability 9.0, and for HIP. `device` must outlive it.
std::unique_ptr<Chain> make_chain(const Device& device);

/// What a chain needs of Resources::scratch and Resources::counters.
size_t chain_scratch_bytes(const Device& device);
size_t chain_counters(const Device& device);
/// And of Resources::exchange.
size_t chain_exchange_entries(const Device& device);

}  // namespace quire::gpu
