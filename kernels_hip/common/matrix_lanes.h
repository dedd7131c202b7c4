#pragma once

#include "kernels_cuda/common/device.h"

namespace quire::gpu {

/// Lanes of a wave that make a matrix product together: 64 with MFMA (CDNA 2 and up), 32 with WMMA (RDNA 3); 0: the
/// device has neither, or one that our kernels do not know.
inline int matrix_lanes(const Device& device) {
  for (const char* const target : {"gfx90a", "gfx940", "gfx941", "gfx942", "gfx950"}) {
    if (device.target.starts_with(target)) return 64;
  }
  return device.target.starts_with("gfx11") ? 32 : 0;
}

}  // namespace quire::gpu
