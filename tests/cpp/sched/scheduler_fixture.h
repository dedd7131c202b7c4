#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <ostream>
#include <span>
#include <vector>

#include "sched/invariants.h"
#include "sched/scheduler.h"

namespace quire {

/// A planned sequence without its views, which do not outlive the step.
struct Share {
  SequenceId id = 0;
  int32_t start = 0;
  int32_t num_tokens = 0;
  bool samples = false;

  bool operator==(const Share&) const = default;
};

inline std::ostream& operator<<(std::ostream& stream, const Share& share) {
  return stream << "id " << share.id << ": [" << share.start << ", +" << share.num_tokens << ")"
                << (share.samples ? " samples" : "");
}

/// `count` tokens that differ from each other; other `first`, other tokens.
inline std::vector<int32_t> tokens_from(int32_t first, int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

/// Drives a scheduler and checks every invariant on the way.
class SchedulerFixture : public testing::Test {
 protected:
  /// Blocks of 4 tokens; a pool of 100, a budget of 64 tokens.
  SchedulerConfig config_ = {
      .block_size = 4, .num_blocks = 100, .max_num_seqs = 8, .max_num_batched_tokens = 64, .max_model_len = 40};

  /// Built from config_ on first use.
  Scheduler& scheduler() {
    if (scheduler_ == nullptr) scheduler_ = std::make_unique<Scheduler>(config_);
    return *scheduler_;
  }

  /// Add a sequence whose tokens are those of no other.
  void add(SequenceId id, int32_t num_tokens, int32_t num_sequences = 1) {
    scheduler().add(id, tokens_from(static_cast<int32_t>(id) * 1000, num_tokens), true, num_sequences);
    check();
  }

  std::vector<Share> plan() {
    const StepPlan& plan = scheduler().plan();
    copies_ = plan.copies;
    swap_out_ = plan.swap_out;
    swap_in_ = plan.swap_in;
    check();
    EXPECT_EQ(find_violation(snapshot_, plan), std::nullopt);
    std::vector<Share> shares;
    for (const PlannedSequence& planned : plan.sequences) {
      shares.push_back({planned.id, planned.start, planned.num_tokens, planned.samples});
    }
    return shares;
  }

  /// The planned step runs, and its results are there.
  void commit(const std::vector<SequenceId>& poisoned = {}) {
    launch();
    settle(poisoned);
  }

  void launch() {
    scheduler().launched();
    check();
  }

  void settle(const std::vector<SequenceId>& poisoned = {}) {
    scheduler().settle(poisoned);
    check();
  }

  std::vector<Share> step() {
    const auto shares = plan();
    commit();
    return shares;
  }

  /// Append a token to every sequence that waits for one.
  void append_to_all() {
    take_snapshot(scheduler(), snapshot_);
    const std::vector<const Sequence*> running = snapshot_.running;
    for (const Sequence* sequence : running) {
      if (sequence->num_pending() == 0) scheduler().append(sequence->id, 7);
    }
    check();
  }

  void remove(SequenceId id) {
    scheduler().remove(id);
    check();
  }

  SequenceStatus status(SequenceId id) { return scheduler().sequence(id).status; }
  bool runs(SequenceId id) { return status(id) == SequenceStatus::kRunning; }

  std::vector<int32_t> blocks_of(SequenceId id) {
    const auto blocks = scheduler().sequence(id).blocks.blocks();
    return {blocks.begin(), blocks.end()};
  }

  void check() {
    take_snapshot(scheduler(), snapshot_);
    ASSERT_EQ(find_violation(snapshot_), std::nullopt);
  }

  std::vector<BlockCopy> copies_, swap_out_, swap_in_;  ///< of the last plan
  SchedulerSnapshot snapshot_;

 private:
  std::unique_ptr<Scheduler> scheduler_;
};

}  // namespace quire
