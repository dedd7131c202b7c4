// How every kernel is launched. A kernel may start while the one before it still runs, where the device can do that
// (programmatic dependent launch): each must call wait_for_previous() before it touches anything that an earlier kernel
// may have written or still reads, weights excepted, and should call let_next_start() as early as it can.
#pragma once

#include <utility>

#include "kernels_cuda/common/vendor.cuh"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// Let a kernel have more dynamic shared memory than the 48 KiB of old; once per kernel is enough.
template <typename... Params>
void allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  check(vendor::allow_shared_memory(kernel, bytes), "reserving shared memory");
}

/// `what`: the op, for the message if the launch fails.
template <typename... Params, typename... Args>
void launch(const char* what, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            const GpuStream& stream, Args&&... args) {
  const bool early = stream.device().compute_capability >= 90;
  check(vendor::launch(kernel, grid, block, shared_bytes, stream.handle(), early,
                       static_cast<Params>(std::forward<Args>(args))...),
        what);
}

}  // namespace quire::gpu
