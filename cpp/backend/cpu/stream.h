#pragma once

#include <cstddef>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/work_ranges.h"
#include "core/buffer.h"
#include "core/thread_pool.h"

namespace quire::cpu {

/// A stream of the CPU backend: ops run at once on the pool's threads and are done when they return.
class CpuStream final : public Stream {
 public:
  explicit CpuStream(ThreadPool& pool) : pool_(pool), work_(pool.size()), scratch_(static_cast<size_t>(pool.size())) {}

  void synchronize() override {}

  ThreadPool& pool() { return pool_; }

  /// For sharing out the op that runs now.
  WorkRanges& work() { return work_; }

  /// Make every worker's scratch at least this large. To be called by an op before it starts its workers.
  /// Contents do not survive from one op to the next. Raises: kOutOfMemory.
  void reserve_scratch(size_t bytes_per_worker);

  /// This worker's own scratch memory, 64-byte aligned.
  void* scratch(int worker) const { return scratch_[static_cast<size_t>(worker)].data(); }

 private:
  ThreadPool& pool_;
  WorkRanges work_;
  std::vector<Buffer> scratch_;
};

/// The stream that a CPU op was given.
inline CpuStream& as_cpu(Stream& stream) {
  return static_cast<CpuStream&>(stream);
}

}  // namespace quire::cpu
