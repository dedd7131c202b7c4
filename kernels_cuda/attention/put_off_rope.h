#pragma once

#include <optional>
#include <utility>

#include "backend/ops/fused.h"
#include "kernels_cuda/put_off.h"

namespace quire::gpu {

/// Enqueue what rope_kv_write does. In attention/kv_write.cu.
void launch_rope_kv_write(const RopeKvWriteArgs& args, GpuStream& stream);
/// Whether q, k and v, of k's type, are turned and stored in whole chunks of kv_layout.h.
bool turns_in_chunks(const RopeKvWriteArgs& args);

/// A rope_kv_write whose work attention behind it may do by the way (attend_roped).
class PutOffRope final : public PutOff {
 public:
  /// There must be none.
  void put(const RopeKvWriteArgs& args) { rope_ = args; }
  /// It is then the caller's to enqueue.
  std::optional<RopeKvWriteArgs> take() { return std::exchange(rope_, std::nullopt); }
  void enqueue(GpuStream& stream) override { launch_rope_kv_write(take().value(), stream); }

 private:
  std::optional<RopeKvWriteArgs> rope_;
};

}  // namespace quire::gpu
