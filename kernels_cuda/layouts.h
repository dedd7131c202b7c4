#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "kernels_cuda/common/device.h"

/// What the backend's answers about memory come from; each beside the kernels that it describes.
namespace quire::gpu {

// attention/
int64_t kv_page_bytes(const KvLayer& shape);
/// Of Resources::scratch and Resources::counters.
size_t attention_scratch_bytes(const Device& device);
size_t attention_counters(const Device& device);

// gemm/
PackedLinear pack_linear(const LinearSource& source, Backend& backend, Stream& stream);
size_t linear_scratch_bytes(const Device& device);
size_t linear_counters(const Device& device);

// moe/
size_t moe_scratch_bytes(const MoeShape& shape);

// portable/sample.cu
size_t sample_scratch_bytes(int64_t num_rows, int64_t vocabulary);

}  // namespace quire::gpu
