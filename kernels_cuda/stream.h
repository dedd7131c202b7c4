#pragma once

#include <cstddef>
#include <memory>
#include <optional>

#include "backend/backend.h"
#include "kernels_cuda/attention/put_off.h"
#include "kernels_cuda/chain/chain.h"
#include "kernels_cuda/chain/rows_chain.h"
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
      : resources_(resources),
        handle_(handle),
        chain_(make_chain(resources.device)),
        rows_chain_(make_rows_chain(resources.device, resources.deterministic)) {}
  ~GpuStream() override { vendor::destroy_stream(handle_); }
  GpuStream(const GpuStream&) = delete;
  GpuStream& operator=(const GpuStream&) = delete;

  void synchronize() override { wait_for_stream(resources_, handle()); }

  /// For whoever enqueues or waits: ops that were put off are enqueued first.
  vendor::StreamHandle handle() const {
    enqueue(chain_);
    enqueue(rows_chain_);
    put_off_.enqueue(*this);  // chain() and chain_rows() leave none that is older
    return handle_;
  }

  /// Put an op off, if it can become a part of one kernel with those behind it.
  template <typename Args>
  bool chain(const Args& args) {
    enqueue(rows_chain_);
    put_off_.enqueue(*this);
    return chain_ != nullptr && chain_->take(args, *this);
  }
  /// The same of products of several rows.
  template <typename Args>
  bool chain_rows(const Args& args) {
    if (rows_chain_ == nullptr || !rows_chain_->fits(args)) return false;
    enqueue(chain_);
    put_off_.enqueue(*this);
    rows_chain_->take(args, *this);
    return true;
  }
  /// Put an op off that no chain has taken, right behind chain(args).
  void put_off(const RopeKvWriteArgs& args) { put_off_.put(args); }
  std::optional<RopeKvWriteArgs> take_put_off() { return put_off_.take(); }
  const Resources& resources() const { return resources_; }
  const Device& device() const { return resources_.device; }

 private:
  template <typename AnyChain>
  void enqueue(const AnyChain& chain) const {
    if (chain != nullptr && !chain->empty()) chain->enqueue(*this);
  }

  const Resources& resources_;
  vendor::StreamHandle handle_;
  std::unique_ptr<Chain> chain_;
  std::unique_ptr<RowsChain> rows_chain_;
  mutable PutOff put_off_;
};

inline GpuStream& as_gpu(Stream& stream) {
  return static_cast<GpuStream&>(stream);
}

}  // namespace quire::gpu
