// Whether the kernels on matrix cores do attention.
#include <algorithm>
#include <iterator>

#include "kernels_cuda/attention/problem.h"
#include "kernels_hip/common/matrix_lanes.h"

namespace quire::gpu {
namespace {

/// Rows of q and out begin at chunks.
bool is_aligned(const Tensor& tensor) {
  const int64_t chunk = kChunkBytes / dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % kChunkBytes == 0 && tensor.strides[0] % chunk == 0 &&
         tensor.strides[1] % chunk == 0;
}

bool has_kernel(const KvLayer& kv, int lanes) {
  constexpr int32_t kDims[] = {64, 80, 96, 112, 128, 160, 192, 256};
  // The rows of 256 do not fit the registers of waves of 32 lanes.
  if (lanes == 0 || (lanes == 32 && kv.head_dim > 128)) return false;
  return !kv.values_in_keys && kv.head_dim == kv.v_head_dim &&
         std::find(std::begin(kDims), std::end(kDims), kv.head_dim) != std::end(kDims);
}

}  // namespace

bool attend_fast(const AttentionArgs& args, const AttentionProblem& problem, GpuStream& stream) {
  const KvLayer& kv = args.kv;
  const RaggedBatch& batch = *args.batch;
  if (kv.dtype == DType::kFloat32 || args.q.dtype != kv.dtype || args.out.dtype != kv.dtype || kv.block_size % 4 != 0 ||
      !is_aligned(args.q) || !is_aligned(args.out) || !has_kernel(kv, matrix_lanes(stream.device()))) {
    return false;
  }
  // How single queries' keys are shared out depends on the batch.
  const bool share = !stream.resources().deterministic;
  if (share && batch.num_single_queries > 0) attend_decode(problem, kv.dtype, stream);
  if (!share || batch.max_query_len > 1) attend_prefill(problem, kv.dtype, /*single_queries_too=*/!share, stream);
  return true;
}

bool attend_roped(const RopeKvWriteArgs&, const AttentionArgs&, const AttentionProblem&, GpuStream&) {
  return false;
}

/// At least for the parts of sequences that attend_generic() shares out: its 512 blocks, 16 parts, 4 heads of 128.
size_t fast_attention_scratch_bytes(const Device& device) {
  return std::max(decode_scratch_bytes(device), size_t{512} * 16 * 4 * (128 + 2) * sizeof(float));
}

size_t fast_attention_counters(const Device& device) {
  return decode_counters(device);
}

}  // namespace quire::gpu
