// Which of the kernels on tensor cores does attention, if one does.
#include <algorithm>
#include <iterator>
#include <limits>

#include "kernels_cuda/attention/problem.h"

namespace quire::gpu {
namespace {

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
  constexpr int32_t kDims[] = {64, 80, 96, 112, 128, 160, 192, 256};
  return !kv.values_in_keys && kv.head_dim == kv.v_head_dim &&
         std::find(std::begin(kDims), std::end(kDims), kv.head_dim) != std::end(kDims);
}

void attend_many(const AttentionProblem& problem, DType dtype, bool single_queries_too, GpuStream& stream) {
  if (hopper_prefill_fits(problem, stream.device())) {
    attend_prefill_hopper(problem, dtype, single_queries_too, stream);
  } else {
    attend_prefill(problem, dtype, single_queries_too, stream);
  }
}

/// Tokens' heads at the same places, in the same order.
bool are_same(const Tensor& a, const Tensor& b) {
  return a.data == b.data && a.dtype == b.dtype && a.shape == b.shape && a.strides == b.strides;
}

bool are_same(const KvLayer& a, const KvLayer& b) {
  return a.data == b.data && a.dtype == b.dtype && a.block_bytes == b.block_bytes && a.block_size == b.block_size &&
         a.num_kv_heads == b.num_kv_heads && a.head_dim == b.head_dim && a.v_head_dim == b.v_head_dim &&
         a.values_in_keys == b.values_in_keys;
}

}  // namespace

bool attend_roped(const RopeKvWriteArgs& rope, const AttentionArgs& args, const AttentionProblem& problem,
                  GpuStream& stream) {
  const Device& device = stream.device();
  const RaggedBatch& batch = *args.batch;
  const KvLayer& kv = args.kv;
  if (!are_same(rope.q, args.q) || !are_same(rope.kv.kv, kv) || rope.kv.k.shape[0] != batch.num_tokens) return false;
  if (!suits_tensor_cores(args, device) || !has_common_width(kv)) return false;
  const int64_t pairs = rope.rope.cos.shape[1];
  if (pairs == 0 || !turns_in_chunks(rope)) return false;
  // Where all sequences have one query a token's number is its sequence's.
  if (batch.max_query_len != 1 || batch.num_tokens != batch.num_sequences) return false;
  if (stream.resources().deterministic || batch.num_sequences > kMaxDecodeSequences) return false;
  // Numbers of slots are divided as 32 bits.
  if (kv.num_blocks * kv.block_size > std::numeric_limits<int32_t>::max()) return false;
  if (!roped_decode_has_room(problem, device)) return false;
  attend_decode_roped(rope, problem, kv.dtype, stream);
  return true;
}

bool attend_fast(const AttentionArgs& args, const AttentionProblem& problem, GpuStream& stream) {
  const Device& device = stream.device();
  const RaggedBatch& batch = *args.batch;
  const DType dtype = args.kv.dtype;
  const bool latent = args.kv.values_in_keys && latent_fits(problem, device);
  if (!suits_tensor_cores(args, device) || (!latent && !has_common_width(args.kv))) return false;
  // How single queries' keys are shared out depends on the batch.
  const bool share = !stream.resources().deterministic && batch.num_sequences <= kMaxDecodeSequences;
  const bool all_single = batch.max_query_len == 1;
  // The kernels work out for themselves who does what, from lengths in device memory, within a microsecond or two; that
  // holds for any number of heads and any window, and in recorded graphs. The host only leaves out launches.
  const bool some_single = batch.num_single_queries > 0;
  if (latent) {
    attend_latent(problem, dtype, share && some_single, !share || !all_single, stream);
    return true;
  }
  if (share && some_single) attend_decode(problem, dtype, stream);
  if (!share || !all_single) attend_many(problem, dtype, /*single_queries_too=*/!share, stream);
  return true;
}

size_t fast_attention_scratch_bytes(const Device& device) {
  return std::max(decode_scratch_bytes(device), latent_scratch_bytes(device));
}

size_t fast_attention_counters(const Device& device) {
  return decode_counters(device);
}

}  // namespace quire::gpu
