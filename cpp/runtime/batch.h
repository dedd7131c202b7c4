#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "sched/step_plan.h"

namespace quire {

/// Packs the sequences of a step into the ragged arrays that ops take, in memory that is kept from step to step: once
/// it has grown to the largest step, nothing is allocated any more.
class BatchBuilder {
 public:
  /// `block_size`: tokens per KV block. `rows_per_key_set`: rows of the rope tables for each set of angles.
  BatchBuilder(Backend& backend, int32_t block_size, int32_t rows_per_key_set)
      : backend_(backend), block_size_(block_size), rows_per_key_set_(rows_per_key_set) {}

  /// Copy one step's arrays to the device. The result is valid until the next call.
  /// Raises: kOutOfMemory.
  RaggedBatch build(std::span<const PlannedSequence> sequences, Stream& stream);

 private:
  struct Layout;
  void grow(size_t bytes);

  Backend& backend_;
  int32_t block_size_;
  int32_t rows_per_key_set_;
  std::vector<std::byte> host_;
  Buffer device_;
};

}  // namespace quire
