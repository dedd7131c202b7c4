#pragma once

#include <optional>
#include <utility>

#include "backend/ops/fused.h"

namespace quire::gpu {

class GpuStream;

/// Enqueue what rope_kv_write does. In attention/kv_write.cu.
void launch_rope_kv_write(const RopeKvWriteArgs& args, const GpuStream& stream);
/// Whether q, k and v, of k's type, are turned and stored in whole chunks of kv_layout.h.
bool turns_in_chunks(const RopeKvWriteArgs& args);

/// A rope_kv_write that a stream has taken but not enqueued yet: attention behind it may do its work by the way
/// (attend_roped). Like a chain's ops (chain/chain.h) it is enqueued before anything else is, and what its arguments
/// point to in the device's memory must be there until it has run.
class PutOff {
 public:
  /// There must be none.
  void put(const RopeKvWriteArgs& args) { rope_ = args; }
  /// It is then the caller's to enqueue.
  std::optional<RopeKvWriteArgs> take() { return std::exchange(rope_, std::nullopt); }
  void enqueue(const GpuStream& stream) {
    if (const auto rope = take()) launch_rope_kv_write(*rope, stream);
  }

 private:
  std::optional<RopeKvWriteArgs> rope_;
};

}  // namespace quire::gpu
