#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "core/buffer.h"
#include "runtime/sampler.h"
#include "sched/step_plan.h"

namespace quire {

/// How large a step is, padding included.
struct StepShape {
  int32_t num_tokens = 0;
  int32_t num_sequences = 0;
  int32_t num_rows = 0;  ///< of logits

  bool operator==(const StepShape&) const = default;
};

/// One step's inputs as ops take them.
struct StepArgs {
  RaggedBatch batch;
  const int32_t* token_rows = nullptr;  ///< [R], index into the step's tokens
  const SampleRow* rows = nullptr;      ///< [R]
  const int32_t* ids = nullptr;         ///< lists of the rows
  const TokenBias* biases = nullptr;
  int32_t* unresolved = nullptr;            ///< the ids that `resolve` goes through: of tokens and of lists
  const int32_t* num_unresolved = nullptr;  ///< in the backend's memory
};

/// Packs all that a step takes from the host into one piece of memory and moves it to the device as one copy.
///
/// Addresses of everything in StepArgs depend on the shape alone, so that a recorded step can be run again with other
/// contents. What varies in length (lists of ids and biases, block tables) lies behind the rest, and is found by
/// indices that count from the beginning of the memory.
class StepInputs {
 public:
  /// `largest`: no step is larger. `rows_per_key_set`: rows of the rope tables for each set of angles.
  StepInputs(Backend& backend, const StepShape& largest, int32_t block_size, int32_t blocks_per_sequence,
             int32_t rows_per_key_set);

  /// Bytes of the backend's memory that it begins with. Steps with longer lists make it grow.
  static int64_t bytes(const StepShape& largest, int32_t blocks_per_sequence);

  /// Whether a step finds room; else load() replaces the memory, if make_room() has not done so.
  bool has_room(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape) const;
  /// Raises: kOutOfMemory.
  void make_room(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape, Stream& stream);

  /// Pack a step, of the plan's size or padded with sequences of one token to `shape`, and enqueue its copy. The
  /// host's memory is used again by the next call but one, which the stream must have reached by then.
  /// Raises: kOutOfMemory.
  StepArgs load(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape, Stream& stream);

  /// Changes when the memory has been replaced, and with it all addresses.
  int64_t generation() const { return generation_; }

 private:
  struct Layout;
  Layout layout_of(const StepPlan& plan, const SampleBatch& samples, const StepShape& shape) const;
  StepArgs args_at(std::byte* base, const Layout& layout) const;
  void pack_sequences(const StepPlan& plan, const Layout& layout, std::byte* host) const;
  void pack_padding(const StepPlan& plan, const Layout& layout, std::byte* host) const;
  void pack_samples(const SampleBatch& samples, const Layout& layout, std::byte* host) const;

  Backend& backend_;
  int32_t block_size_;
  int32_t rows_per_key_set_;
  std::array<Buffer, 2> host_;  ///< in rotation
  size_t next_host_ = 0;
  Buffer device_;
  int64_t generation_ = 0;
};

}  // namespace quire
