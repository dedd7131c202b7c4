#pragma once

#include "backend/ops/linear.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// The linear op in float32 multiply-adds, for any types, sizes and alignments. The order of a sum depends on K alone.
void generic_linear(const LinearArgs& args, GpuStream& stream);
void generic_grouped_linear(const GroupedLinearArgs& args, GpuStream& stream);

/// out[t, n] += bias[n].
void add_bias(const Tensor& out, const Tensor& bias, GpuStream& stream);
/// A vector in another type.
void round_vector(const Tensor& from, const Tensor& to, GpuStream& stream);

}  // namespace quire::gpu
