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

/// Copy-on-write: block `to` becomes a copy of `from` before the step computes. No block is both copied from and
/// copied to in one step, so the order of copies does not matter.
struct BlockCopy {
  int32_t from = 0;
  int32_t to = 0;
};

/// What one forward pass will do; plain data, valid until the scheduler is called again.
struct StepPlan {
  std::vector<PlannedSequence> sequences;  ///< in order of arrival
  std::vector<BlockCopy> copies;
  int32_t num_tokens = 0;

  bool empty() const { return sequences.empty(); }
};

}  // namespace quire
