#pragma once

#include <memory>

#include "backend/ops/fused.h"
#include "kernels_cuda/common/device.h"
#include "kernels_cuda/put_off.h"

namespace quire::gpu {

/// Products of 2 to 64 rows: several that follow each other become one kernel (rows.cu), in which weights are read with
/// hardly a pause. As a Chain (chain.h) is for the ops of one row.
class RowsChain : public PutOff {
 public:
  /// Take an op, if it can be a link. If not of this chain, those before are enqueued and it begins another.
  virtual bool take(const LinearArgs& args, GpuStream& stream) = 0;
  virtual bool take(const NormedLinearArgs& args, GpuStream& stream) = 0;
};

/// Null where there is no such kernel: with other compute capabilities than 9.0, for HIP, and where results must not
/// depend on the number of rows. It has one of the entries of Resources::exchange that a Chain leaves free (chain.cc).
/// `device` must outlive it.
std::unique_ptr<RowsChain> make_rows_chain(const Device& device, bool deterministic);

}  // namespace quire::gpu
