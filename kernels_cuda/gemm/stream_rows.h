#pragma once

#include "backend/ops/fused.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// The linear op of few rows, limited by the read of the weights; with a norm in front and an activation behind if
/// asked. x and weight of the same 16-bit type; of NVIDIA's GPUs those of compute capability 8.0 and up.
struct StreamRows {
  Tensor x;                        ///< [T, K] of weight's type; float32 with a norm
  const NormArgs* norm = nullptr;  ///< its x and out are not looked at
  const PackedLinear* weight = nullptr;
  Tensor bias;
  Tensor residual;
  const ActivationRule* activation = nullptr;  ///< applied to float32 sums
  Tensor out;
};

/// Whether the rows are few enough and everything is aligned to 16 bytes.
bool stream_rows_fits(const StreamRows& args, const Device& device);
void stream_rows(const StreamRows& args, GpuStream& stream);
/// The same, or put off until it is known what follows.
inline void chain_or_stream_rows(const StreamRows& args, GpuStream& stream) {
  if (!stream.chain(args)) stream_rows(args, stream);
}

}  // namespace quire::gpu
