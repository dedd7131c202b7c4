#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace quire {

/// The paged keys and values of one layer. A page holds `block_size` tokens; its inside belongs to the backend, which
/// says how many bytes it takes (Backend::kv_block_bytes). Model and scheduler only count blocks.
struct KvLayer {
  void* data = nullptr;  ///< num_blocks pages, `block_bytes` apart
  DType dtype = DType::kFloat32;
  int64_t num_blocks = 0;
  int64_t block_bytes = 0;
  int32_t block_size = 0;    ///< B
  int32_t num_kv_heads = 0;  ///< G
  int32_t head_dim = 0;      ///< K, of keys
  int32_t v_head_dim = 0;    ///< of values
  /// A token's values are the first v_head_dim components of its key (latent attention): a backend may store them once.
  bool values_in_keys = false;
};

/// The ragged batch of one step: tokens of all sequences packed along T, prompt chunks and single tokens alike.
/// Arrays live in the backend's memory. They, and the keys and values of earlier steps, are in place before the step's
/// first op is enqueued, by copies to the device or because the stream has been waited for: an op may read them before
/// the ops ahead of it have ended. Only token_ids may still be set by the resolve op.
///
/// A backend that records graphs gets batches that are padded to a recorded size: padding sequences stand at the end,
/// with one token each, context_lens 0 and slots -1. What ops compute for their tokens is not looked at.
struct RaggedBatch {
  int32_t num_tokens = 0;                ///< T
  int32_t num_sequences = 0;             ///< S
  const int32_t* token_ids = nullptr;    ///< [T]
  const int32_t* positions = nullptr;    ///< [T], counted from the sequence's first token
  const int32_t* rope_rows = nullptr;    ///< [T], row of the rope tables: the position, in the sequence's set of angles
  const int64_t* slots = nullptr;        ///< [T], block * B + offset where the token's keys and values go; -1: nowhere
  const int32_t* query_start = nullptr;  ///< [S + 1], first token of each sequence in T
  const int32_t* context_lens = nullptr;  ///< [S], keys in the cache once this step's are written
  const int32_t* block_tables = nullptr;  ///< the blocks of all sequences, one behind the other
  const int32_t* block_starts = nullptr;  ///< [S], where in block_tables a sequence's blocks begin
  int32_t max_query_len = 0;              ///< tokens of the sequence that has most of them in this step
  int32_t num_single_queries = 0;         ///< sequences with one token in this step, padding included
};

}  // namespace quire
