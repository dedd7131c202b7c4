#pragma once

#include <cstddef>
#include <string>

#include "core/check.h"
#include "kernels_cuda/common/vendor.h"

namespace quire::gpu {

/// What kernels and their launches need to know of a GPU.
struct Device {
  int ordinal = 0;
  std::string name;
  std::string target;          ///< what its machine code is made for: "sm_90", "gfx90a"
  int compute_capability = 0;  ///< NVIDIA's: 90 for 9.0; 0 elsewhere
  int num_multiprocessors = 0;
  size_t shared_memory_per_block = 0;  ///< most that a block can have, opted in
  size_t l2_bytes = 0;
};

/// Raise an error of the runtime as ours: kOutOfMemory or kDevice. `what`: what was being done, in words.
[[noreturn]] void throw_device_error(vendor::Result result, const char* what);

inline void check(vendor::Result result, const char* what) {
  if (result != vendor::kSuccess) [[unlikely]] {
    throw_device_error(result, what);
  }
}

}  // namespace quire::gpu
