#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "kernels_cuda/common/vendor.h"

namespace quire::gpu {

/// Memory of a device, and page-locked memory of the host that every device sees at the same address.
/// Raises: kOutOfMemory with the size and what is free.
Buffer allocate_device(size_t bytes, int ordinal);
Buffer allocate_page_locked(size_t bytes);

/// Weights one behind the other: the driver gives memory in pieces of 2 MiB, and takes its time for each.
/// A piece goes back to the driver with the last buffer in it.
class WeightArena {
 public:
  explicit WeightArena(int ordinal) : ordinal_(ordinal) {}

  /// Raises: as allocate_device().
  Buffer allocate(size_t bytes);

 private:
  /// What the driver gave, and how much of it is in use from its beginning on.
  struct Chunk {
    std::weak_ptr<const Buffer> memory;
    size_t used = 0;
    size_t bytes = 0;
  };

  const int ordinal_;
  std::mutex mutex_;
  std::vector<Chunk> open_;  ///< those with some room left
};

/// Carries memory that is not page-locked to the device: through two page-locked buffers, of which one is filled, by
/// several threads, while the other is on its way.
class Uploader {
 public:
  /// Returns when `source` may be reused.
  void copy(void* destination, const void* source, size_t bytes, vendor::StreamHandle stream);
  ~Uploader();

 private:
  struct Stage {
    Buffer memory;
    vendor::EventHandle sent = nullptr;
  };

  void prepare();

  std::mutex mutex_;
  std::unique_ptr<ThreadPool> pool_;
  std::array<Stage, 2> stages_;
  size_t next_ = 0;
};

}  // namespace quire::gpu
