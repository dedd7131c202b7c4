#pragma once

namespace quire::gpu {

class GpuStream;

/// Ops that a stream has taken but not enqueued yet, since those behind them may make one kernel of several. In what
/// order things happen on the stream stays the same: it asks for them before anything else is enqueued
/// (GpuStream::handle). What their arguments point to in the device's memory, and weights, must be there until they
/// have run.
class PutOff {
 public:
  virtual ~PutOff() = default;
  /// Enqueue what has been taken; then there is none. Called by the stream, for which see enqueue_put_off().
  virtual void enqueue(GpuStream& stream) = 0;
};

}  // namespace quire::gpu
