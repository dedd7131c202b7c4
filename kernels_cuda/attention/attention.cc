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

}  // namespace

void attention(const AttentionArgs& args, Stream& stream) {
  GpuStream& gpu = as_gpu(stream);
  if (args.batch->num_tokens == 0) return;
  const AttentionProblem problem = problem_of(args, gpu);
  if (const auto rope = gpu.take_put_off()) {
    if (attend_roped(*rope, args, problem, gpu)) return;
    launch_rope_kv_write(*rope, gpu);
  }
  if (gpu.chain(args)) return;
  if (!attend_fast(args, problem, gpu)) attend_generic(problem, args.q.dtype, args.kv.dtype, gpu);
}

size_t attention_scratch_bytes(const Device& device) {
  return fast_attention_scratch_bytes(device);
}

size_t attention_counters(const Device& device) {
  return std::max(fast_attention_counters(device), generic_counters());
}

int64_t kv_page_bytes(const KvLayer& shape) {
  constexpr int64_t kAlign = 256;
  const int64_t bytes = int64_t{kv_layout(shape).head_chunks} * shape.num_kv_heads * kChunkBytes;
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

}  // namespace quire::gpu
