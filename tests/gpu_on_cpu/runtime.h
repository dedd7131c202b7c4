// What CUDA's and HIP's API have in common, done by the CPU at once. Streams have nothing to wait for; what is recorded
// is a list of functions.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "gpu_on_cpu/block.h"

namespace gpu_on_cpu {

/// What a GPU has, and what of it is free, whoever has asked for how much.
constexpr size_t kMemoryBytes = size_t{1} << 30, kFreeBytes = kMemoryBytes / 16 * 15;
/// Few, so that work is split in tests of small shapes too.
constexpr int kMultiprocessors = 4;
constexpr int kL2Bytes = 1 << 20;

/// GPU_ON_CPU_DEVICES says how many there are. All of them are the same.
inline int num_devices() {
  const char* const wanted = std::getenv("GPU_ON_CPU_DEVICES");
  return wanted != nullptr ? std::atoi(wanted) : 1;
}

/// All bits set: NaN in every type, for what is read and was not written. Of large pieces only the beginning: pages
/// that nobody touches cost nothing. Null: there is not so much.
inline void* allocate(size_t bytes) {
  constexpr size_t kAlignment = 256, kMostFilled = 4 << 20;
  if (bytes > kMemoryBytes) return nullptr;
  void* const memory = std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment);
  if (memory != nullptr) std::memset(memory, 0xff, std::min(bytes, kMostFilled));
  return memory;
}

using Recording = std::vector<std::function<void()>>;

class Stream {
 public:
  template <typename Work>
  void enqueue(Work work) {
    recording_ != nullptr ? recording_->push_back(std::move(work)) : work();
  }

  void begin_recording() {
    recording_ = new Recording;
    is_spoilt_ = false;
  }
  /// Null: something was asked for that may not be while it is recorded.
  Recording* end_recording() {
    Recording* recording = std::exchange(recording_, nullptr);
    if (is_spoilt_) delete std::exchange(recording, nullptr);
    return recording;
  }

  bool is_recorded() const { return recording_ != nullptr; }
  /// False: not while it is recorded, which is spoilt.
  bool wait() {
    is_spoilt_ = is_spoilt_ || recording_ != nullptr;
    return recording_ == nullptr;
  }

 private:
  Recording* recording_ = nullptr;
  bool is_spoilt_ = false;
};

template <typename Work>
void enqueue(Stream* stream, Work work) {
  stream != nullptr ? stream->enqueue(std::move(work)) : work();
}

inline void copy(void* to, const void* from, size_t bytes, Stream* stream) {
  enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}

inline void copy_rows(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                      Stream* stream) {
  enqueue(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch, width);
    }
  });
}

inline void launch_graph(const Recording& graph) {
  for (const std::function<void()>& work : graph) work();
}

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, Together together, Stream* stream,
            Params... params) {
  enqueue(stream, [=] { run(grid, block, shared_bytes, together, [&] { kernel(params...); }); });
}

}  // namespace gpu_on_cpu
