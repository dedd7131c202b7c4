// How every kernel is launched. A kernel may start while the one before it still runs, where the device can do that
// (programmatic dependent launch): each must call wait_for_previous() before it touches anything that an earlier kernel
// may have written or still reads, weights excepted, and should call let_next_start() as early as it can.
#pragma once

#include <array>
#include <atomic>
#include <utility>

#include "kernels_cuda/common/vendor.cuh"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// A value for each device, for what the runtime knows of a kernel on each. Ranks launch from several threads.
template <typename T>
class PerDevice {
 public:
  /// That of the device which the calling thread uses.
  T& here() {
    int ordinal = 0;
    check(vendor::current_device(&ordinal), "asking for the device");
    return values_.at(static_cast<size_t>(ordinal));
  }

 private:
  static constexpr size_t kMostDevices = 64;  // of a machine: more than any has
  std::array<T, kMostDevices> values_{};
};

/// Work that is done once on each device before it is needed there; two threads that use one device may both do it.
class OncePerDevice {
 public:
  template <typename Work>
  void operator()(Work work) {
    std::atomic<bool>& done = done_.here();
    if (done.load(std::memory_order_acquire)) return;
    work();
    done.store(true, std::memory_order_release);
  }

 private:
  PerDevice<std::atomic<bool>> done_;
};

/// Let a kernel have more dynamic shared memory than the 48 KiB of old; once per kernel and device is enough.
template <typename... Params>
void allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  check(vendor::allow_shared_memory(kernel, bytes), "reserving shared memory");
}

/// `what`: the op, for the message if the launch fails.
template <typename... Params, typename... Args>
void launch(const char* what, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, GpuStream& stream,
            Args&&... args) {
  const bool early = stream.device().compute_capability >= 90;
  check(vendor::launch(kernel, grid, block, shared_bytes, stream.handle(), early,
                       static_cast<Params>(std::forward<Args>(args))...),
        what);
}

}  // namespace quire::gpu
