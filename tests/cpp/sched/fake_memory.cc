#include "sched/fake_memory.h"

#include <algorithm>

namespace quire {

namespace {

uint64_t scramble(uint64_t value) {
  value = (value ^ (value >> 31)) * 0x7fb5d329728ea185u;
  value = (value ^ (value >> 27)) * 0x81dadef4bc2dd44du;
  return value ^ (value >> 33);
}

}  // namespace

FakeMemory::FakeMemory(int32_t num_blocks, int32_t num_swap_blocks, int32_t block_size)
    : block_size_(static_cast<size_t>(block_size)),
      slots_(static_cast<size_t>(num_blocks) * block_size_, 0),
      swap_slots_(static_cast<size_t>(num_swap_blocks) * block_size_, 0) {}

uint64_t FakeMemory::value_after(uint64_t before, int32_t token) {
  return scramble(before * 31 + static_cast<uint64_t>(token) + 1);
}

uint64_t FakeMemory::spoiled(SequenceId id, int32_t position) {
  return scramble(~((id << 32) + static_cast<uint64_t>(position)));
}

size_t FakeMemory::slot(std::span<const int32_t> blocks, int32_t position) const {
  const auto index = static_cast<size_t>(position);
  return static_cast<size_t>(blocks[index / block_size_]) * block_size_ + index % block_size_;
}

uint64_t FakeMemory::read(std::span<const int32_t> blocks, int32_t position) const {
  return slots_[slot(blocks, position)];
}

uint64_t FakeMemory::read_swapped(std::span<const int32_t> blocks, int32_t position) const {
  return swap_slots_[slot(blocks, position)];
}

void FakeMemory::copy(std::span<const BlockCopy> copies, const Slots& from, Slots& to) const {
  const auto start = [this](int32_t block) { return static_cast<ptrdiff_t>(static_cast<size_t>(block) * block_size_); };
  for (const BlockCopy& copy : copies) {
    std::copy_n(from.begin() + start(copy.from), block_size_, to.begin() + start(copy.to));
  }
}

void FakeMemory::execute(const StepPlan& plan, const std::function<bool(SequenceId)>& is_spoiled) {
  copy(plan.swap_out, slots_, swap_slots_);
  copy(plan.swap_in, swap_slots_, slots_);
  copy(plan.copies, slots_, slots_);
  for (const PlannedSequence& planned : plan.sequences) {
    const bool spoil = is_spoiled(planned.id);
    for (int32_t position = planned.start; position < planned.start + planned.num_tokens; ++position) {
      const uint64_t before = position == 0 ? 0 : read(planned.blocks, position - 1);
      slots_[slot(planned.blocks, position)] =
          spoil ? spoiled(planned.id, position) : value_after(before, planned.tokens[static_cast<size_t>(position)]);
    }
  }
}

}  // namespace quire
