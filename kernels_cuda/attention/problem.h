#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/ops/attention.h"
#include "backend/ops/fused.h"
#include "kernels_cuda/attention/kv_layout.h"
#include "kernels_cuda/stream.h"

namespace quire::gpu {

/// The attention op's arguments as kernels take them. Strides are in elements.
struct AttentionProblem {
  const void* q = nullptr;
  void* out = nullptr;
  int64_t q_token_stride = 0, q_head_stride = 0;
  int64_t out_token_stride = 0, out_head_stride = 0;

  const std::byte* pages = nullptr;
  int64_t block_bytes = 0;
  int64_t head_bytes = 0;  ///< of a page, from head to head
  KvLayout layout;
  int32_t head_dim = 0, value_dim = 0;

  const int32_t* query_start = nullptr;
  const int32_t* context_lens = nullptr;
  const int32_t* block_tables = nullptr;
  const int32_t* block_starts = nullptr;
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  int32_t num_kv_heads = 0;
  int32_t group = 0;  ///< query heads of a kv head

  float scale = 1.0f;
  float softcap = 0.0f;
  int32_t window = 0;
  const float* alibi_slopes = nullptr;
  const float* sinks = nullptr;

  float* scratch = nullptr;
  unsigned* counters = nullptr;
};

/// Do it with kernels of the vendor's own, on the units that multiply matrices; false if they do not take these types,
/// widths or places. In attention/fast.cc of either tree.
bool attend_fast(const AttentionArgs& args, const AttentionProblem& problem, GpuStream& stream);
/// The same together with the op before it, in one kernel. To the bit what both give one after the other; false if
/// there is no such kernel for these.
bool attend_roped(const RopeKvWriteArgs& rope, const AttentionArgs& args, const AttentionProblem& problem,
                  GpuStream& stream);
size_t fast_attention_scratch_bytes(const Device& device);
size_t fast_attention_counters(const Device& device);

/// Everything, in any type. A row's result depends on the row alone.
void attend_generic(const AttentionProblem& problem, DType q_dtype, DType kv_dtype, GpuStream& stream);
size_t generic_counters();

// What attend_fast() chooses from.

/// Most sequences that attend_decode() takes.
constexpr int kMaxDecodeSequences = 1024;

/// The sequences with one query, on tensor cores. Splits the keys of all over the GPU: evenly, as far as short contexts
/// stay whole.
void attend_decode(const AttentionProblem& problem, DType dtype, GpuStream& stream);
/// Where all sequences have one query: turn q and k as well, and write k and v into the cache. With as many warps, so
/// that keys are cut at the same places; is there shared memory for them?
bool roped_decode_has_room(const AttentionProblem& problem, const Device& device);
void attend_decode_roped(const RopeKvWriteArgs& rope, const AttentionProblem& problem, DType dtype, GpuStream& stream);
size_t decode_scratch_bytes(const Device& device);
size_t decode_counters(const Device& device);

/// The sequences with several queries, those with one too if `single_queries_too`, on tensor cores. A row's result
/// depends on the row alone.
void attend_prefill(const AttentionProblem& problem, DType dtype, bool single_queries_too, GpuStream& stream);

/// The same for heads of 64 and 128 on compute capability 9.0.
bool hopper_prefill_fits(const AttentionProblem& problem, const Device& device);
void attend_prefill_hopper(const AttentionProblem& problem, DType dtype, bool single_queries_too, GpuStream& stream);

/// Keys of 576 with values in them, on compute capability 9.0 and up. `split_single`: share sequences with one query
/// out over the GPU (at most kMaxDecodeSequences); `others`: the rest, or everything without `split_single`; there a
/// row's result depends on the row alone.
bool latent_fits(const AttentionProblem& problem, const Device& device);
void attend_latent(const AttentionProblem& problem, DType dtype, bool split_single, bool others, GpuStream& stream);
size_t latent_scratch_bytes(const Device& device);

}  // namespace quire::gpu
