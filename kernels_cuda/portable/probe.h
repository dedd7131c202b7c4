#pragma once

#include <cuda_runtime.h>

namespace quire::gpu {

/// Whether this build has code for the current device: cudaErrorNoKernelImageForDevice if not.
cudaError_t probe_code();

}  // namespace quire::gpu
