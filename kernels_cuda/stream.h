#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "backend/backend.h"
#include "kernels_cuda/attention/put_off_rope.h"
#include "kernels_cuda/chain/chain.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {

class Blas;
class RankGroup;

/// What a backend's ops share beside their arguments.
struct Resources {
  Device device;
  bool deterministic = false;
  /// Null if the vendor's library is not there: then our own kernels do all matrix products.
  Blas* blas = nullptr;
  /// Room for partial results of attention and of matrix products; an op's contents are its own until the next op.
  void* scratch = nullptr;
  size_t scratch_bytes = 0;
  /// Counters that a kernel finds zero and leaves zero, so that the last of its blocks can be told.
  unsigned* counters = nullptr;
  size_t num_counters = 0;
  /// What the links of a chain tell each other (chain/): zero at first, and then nobody else's.
  uint64_t* exchange = nullptr;
  size_t exchange_entries = 0;
  /// The other ranks, as long as there are communicators (comm/group.h).
  std::weak_ptr<RankGroup> ranks;
};

// What waits for the device, and what relies on its results, must hear of ranks that have failed: their results are no
// results. Raises: kDevice. Defined with the group of ranks.

void wait_for_stream(const Resources& resources, vendor::StreamHandle stream);
void wait_for_event(const Resources& resources, vendor::EventHandle event);
void check_ranks(const Resources& resources);

class GpuStream final : public Stream {
 public:
  GpuStream(const Resources& resources, vendor::StreamHandle handle)
      : resources_(resources), handle_(handle), chain_(make_chain(resources.device)) {}
  ~GpuStream() override { vendor::destroy_stream(handle_); }
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;

  void synchronize() override { wait_for_stream(resources_, handle()); }

  /// For whoever enqueues or waits: ops that were put off are enqueued first.
  vendor::StreamHandle handle() {
    enqueue_put_off();
    return handle_;
  }

  /// Put an op off, if it can become a part of one kernel with those behind it. The chain may enqueue what it had and
  /// begin anew with this op; what others hold is older than the op.
  template <typename Args>
  bool chain(const Args& args) {
    if (chain_ == nullptr || !may_chain_ || !chain_->take(args, *this)) return false;
    if (put_off_ != chain_.get()) enqueue_put_off();
    put_off_ = chain_.get();
    return true;
  }
  /// Put an op off that the chain has not taken.
  void put_off(const RopeKvWriteArgs& args) {
    enqueue_put_off();
    rope_.put(args);
    put_off_ = &rope_;
  }
  /// What put_off() got, if nothing has come behind it: it is then the caller's to enqueue.
  std::optional<RopeKvWriteArgs> take_put_off() {
    if (put_off_ != &rope_) return std::nullopt;
    put_off_ = nullptr;
    return rope_.take();
  }
  /// Enqueue what was put off. The chain takes none of the ops that this runs one by one.
  void enqueue_put_off() {
    PutOff* const ops = std::exchange(put_off_, nullptr);
    if (ops == nullptr) return;
    const struct Restore {
      bool& value;
      bool before;
      ~Restore() { value = before; }
    } restore{may_chain_, std::exchange(may_chain_, false)};
    ops->enqueue(*this);
  }
  const Resources& resources() const { return resources_; }
  const Device& device() const { return resources_.device; }

 private:
  const Resources& resources_;
  vendor::StreamHandle handle_;
  std::unique_ptr<Chain> chain_;
  PutOffRope rope_;
  PutOff* put_off_ = nullptr;  ///< which of them holds ops; never two do
  bool may_chain_ = true;
};

inline GpuStream& as_gpu(Stream& stream) {
  return static_cast<GpuStream&>(stream);
}

}  // namespace quire::gpu
