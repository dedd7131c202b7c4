#pragma once

#include "backend/ops/linear.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// The grouped linear op on the tensor cores; the order of a sum depends on K alone. Asks for x and weight of the same
/// 16-bit type, everything aligned to 16 bytes, compute capability 8.0 and up.
bool grouped_tiles_fit(const GroupedLinearArgs& args, const Device& device);
void grouped_tiles(const GroupedLinearArgs& args, GpuStream& stream);

}  // namespace quire::gpu
