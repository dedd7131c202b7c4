#include <algorithm>

#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/layouts.h"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

AttentionProblem problem_of(const AttentionArgs& args, const GpuStream& stream) {
  const RaggedBatch& batch = *args.batch;
  const KvLayout layout = kv_layout(args.kv);
  return {.q = args.q.data,
          .out = args.out.data,
          .q_token_stride = args.q.strides[0],
          .q_head_stride = args.q.strides[1],
          .out_token_stride = args.out.strides[0],
          .out_head_stride = args.out.strides[1],
          .pages = static_cast<const std::byte*>(args.kv.data),
          .block_bytes = args.kv.block_bytes,
          .head_bytes = int64_t{layout.head_chunks} * kChunkBytes,
          .layout = layout,
          .head_dim = args.kv.head_dim,
          .value_dim = args.kv.v_head_dim,
          .query_start = batch.query_start,
          .context_lens = batch.context_lens,
          .block_tables = batch.block_tables,
          .block_starts = batch.block_starts,
          .num_tokens = batch.num_tokens,
          .num_sequences = batch.num_sequences,
          .num_kv_heads = args.kv.num_kv_heads,
          .group = static_cast<int32_t>(args.q.shape[1]) / args.kv.num_kv_heads,
          .scale = args.scale,
          .softcap = args.softcap,
          .window = args.window,
          .alibi_slopes = args.alibi_slopes,
          .sinks = args.sinks,
          .scratch = static_cast<float*>(stream.resources().scratch),
          .counters = stream.resources().counters};
}

/// Rows of q and out begin at chunks.
bool is_aligned(const Tensor& tensor) {
  const int64_t chunk = kChunkBytes / dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % kChunkBytes == 0 && tensor.strides[0] % chunk == 0 &&
         tensor.strides[1] % chunk == 0;
}

/// Whether the kernels on tensor cores can take these types and places.
bool suits_tensor_cores(const AttentionArgs& args, const Device& device) {
  const KvLayer& kv = args.kv;
  return device.compute_capability >= 80 && kv.dtype != DType::kFloat32 && args.q.dtype == kv.dtype &&
         args.out.dtype == kv.dtype && (kv.block_size == 8 || kv.block_size % 16 == 0) && is_aligned(args.q) &&
         is_aligned(args.out);
}

bool has_common_width(const KvLayer& kv) {
  constexpr int32_t kDims[] = {64, 80, 96, 112, 128, 256};
  return !kv.values_in_keys && kv.head_dim == kv.v_head_dim &&
         std::find(std::begin(kDims), std::end(kDims), kv.head_dim) != std::end(kDims);
}

void attend_many(const AttentionProblem& problem, DType dtype, bool single_queries_too, const GpuStream& stream) {
  if (hopper_prefill_fits(problem, stream.device())) {
    attend_prefill_hopper(problem, dtype, single_queries_too, stream);
  } else {
    attend_prefill(problem, dtype, single_queries_too, stream);
  }
}

}  // namespace

void attention(const AttentionArgs& args, Stream& stream) {
  const GpuStream& gpu = as_gpu(stream);
  const RaggedBatch& batch = *args.batch;
  if (batch.num_tokens == 0) return;
  const AttentionProblem problem = problem_of(args, gpu);
  const DType dtype = args.kv.dtype;
  const bool latent = args.kv.values_in_keys && latent_fits(problem, gpu.device());
  if (!suits_tensor_cores(args, gpu.device()) || (!latent && !has_common_width(args.kv))) {
    return attend_generic(problem, args.q.dtype, dtype, gpu);
  }
  // How single queries' keys are shared out depends on the batch.
  const bool share = !gpu.resources().deterministic && batch.num_sequences <= kMaxDecodeSequences;
  const bool all_single = batch.max_query_len == 1;
  // The kernels work out for themselves who does what, from lengths in device memory, within a microsecond or two; that
  // holds for any number of heads and any window, and in recorded graphs. The host only leaves out launches.
  const bool some_single = batch.num_single_queries > 0;
  if (latent) return attend_latent(problem, dtype, share && some_single, !share || !all_single, gpu);
  if (share && some_single) attend_decode(problem, dtype, gpu);
  if (!share || !all_single) attend_many(problem, dtype, /*single_queries_too=*/!share, gpu);
}

size_t attention_scratch_bytes(const Device& device) {
  return std::max(decode_scratch_bytes(device), latent_scratch_bytes(device));
}

size_t attention_counters(const Device& device) {
  return std::max(decode_counters(device), generic_counters());
}

int64_t kv_page_bytes(const KvLayer& shape) {
  constexpr int64_t kAlign = 256;
  const int64_t bytes = int64_t{kv_layout(shape).head_chunks} * shape.num_kv_heads * kChunkBytes;
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

}  // namespace quire::gpu
