#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quire {

/// Number of a sequence inside one engine; never used twice.
using SequenceId = uint64_t;

/// One sequence's share of a step.
struct PlannedSequence {
  SequenceId id = 0;
  /// First token computed: tokens before it are in the KV cache.
  int32_t start = 0;
  /// Tokens computed, >= 1.
  int32_t num_tokens = 0;
  /// The last of its tokens is computed here, so that a new token can be sampled.
  bool samples = false;
  /// As Sequence::key_set.
  int32_t key_set = 0;
  /// All of the sequence's tokens, prompt and output, those of later steps included. Negative: not known yet, as the
  /// caller of Scheduler::append() said it.
  std::span<const int32_t> tokens;
  /// Its blocks, enough for start + num_tokens tokens: token t lives in blocks[t / block_size].
  std::span<const int32_t> blocks;
};

/// Block `to` becomes a copy of `from`. No block is both copied from and copied to by one list of copies, so their
/// order does not matter.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
};

/// What one forward pass will do; plain data, valid until the scheduler is called again.
///
/// Before it computes, blocks are moved: first those that are swapped out, which others may take at once; then come
/// those that are swapped in, then copy-on-write. No step swaps both out and in.
struct StepPlan {
  std::vector<PlannedSequence> sequences;  ///< in order of arrival
  std::vector<BlockCopy> swap_out;         ///< from the device's pool to the host's
  std::vector<BlockCopy> swap_in;          ///< from the host's pool to the device's
  std::vector<BlockCopy> copies;           ///< within the device's pool
  int32_t num_tokens = 0;

  /// Nothing is to be computed. There may be blocks to swap out all the same.
  bool empty() const { return sequences.empty(); }
};

}  // namespace quire
