#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/ops/activation.h"
#include "backend/ops/linear.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// out = x * weight^T (+ bias) (+ residual) with our own tensor-core tiles: x and weight of the same 16-bit type,
/// compute capability 8.0 and up. A row's result does not depend on the number of rows if the stream is deterministic.
/// Strides, of a single row too, and addresses must be multiples of 16 bytes, K and half of gated rows of 8.
/// With `activation` (or null) out is act(x * weight^T + bias), and there is no residual.
bool tile_linear_fits(const LinearArgs& args, const ActivationRule* activation, const GpuStream& stream);
void tile_linear(const LinearArgs& args, const ActivationRule* activation, GpuStream& stream);

/// Whether a step is faster with tiles for a product, and for its activation if there is one, than with the library.
bool tiles_are_faster(const LinearArgs& product, const ActivationRule* activation, const GpuStream& stream);

/// What tiles can use of Resources::scratch and Resources::counters. With less they are right, but do not cut their
/// sums between blocks: slow where there are few rows.
size_t tile_scratch_bytes(const Device& device);
size_t tile_counters(const Device& device);

}  // namespace quire::gpu
