#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "sched/step_plan.h"

namespace quire {

/// KV memory and model in one, without arithmetic: a slot holds a hash of all tokens up to its own, made from the slot
/// before it, which is read from memory as attention reads keys. So whatever a scheduler may get wrong (a stale cache
/// hit, a block reused too early, a copy forgotten) leaves a wrong number in some slot.
class FakeMemory {
 public:
  FakeMemory(int32_t num_blocks, int32_t num_swap_blocks, int32_t block_size);

  /// What belongs in the slot of `token`, `before` being in the slot before it (0 at the beginning).
  static uint64_t value_after(uint64_t before, int32_t token);
  /// What a computation gone wrong leaves: differs from every good value, and by sequence and position.
  static uint64_t spoiled(SequenceId id, int32_t position);

  /// Do what a plan says. `is_spoiled`: sequences whose values are not finite in this step.
  void execute(const StepPlan& plan, const std::function<bool(SequenceId)>& is_spoiled);

  /// The number at a position of a sequence with these blocks.
  uint64_t read(std::span<const int32_t> blocks, int32_t position) const;
  /// The same of a sequence that is swapped out.
  uint64_t read_swapped(std::span<const int32_t> blocks, int32_t position) const;

 private:
  using Slots = std::vector<uint64_t>;

  size_t slot(std::span<const int32_t> blocks, int32_t position) const;
  void copy(std::span<const BlockCopy> copies, const Slots& from, Slots& to) const;

  size_t block_size_;
  Slots slots_;
  Slots swap_slots_;
};

}  // namespace quire
