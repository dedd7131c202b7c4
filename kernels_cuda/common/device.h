#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <string>

#include "core/check.h"

namespace quire::gpu {

/// What kernels and their launches need to know of a GPU.
struct Device {
  int ordinal = 0;
  std::string name;
  int compute_capability = 0;  ///< 90 for 9.0
  int num_multiprocessors = 0;
  size_t shared_memory_per_block = 0;  ///< most that a block can have, opted in
  size_t l2_bytes = 0;
};

/// Raise an error of the runtime as ours: kOutOfMemory or kDevice. `what`: what was being done, in words.
[[noreturn]] void throw_device_error(cudaError_t error, const char* what);

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) [[unlikely]] {
    throw_device_error(error, what);
  }
}

}  // namespace quire::gpu
