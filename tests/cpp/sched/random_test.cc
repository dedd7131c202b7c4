#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>

#include "sched/history.h"

namespace quire {
namespace {

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// An unoptimised build takes twenty times as long for an operation.
#ifdef NDEBUG
constexpr uint64_t kOperations = 1'000'000;
#else
constexpr uint64_t kOperations = 50'000;
#endif

void sum_up(HistoryCounts& sum, const HistoryCounts& counts) {
  sum.operations += counts.operations;
  sum.preemptions += counts.preemptions;
  sum.cached_tokens += counts.cached_tokens;
  sum.second_hits += counts.second_hits;
  sum.forks += counts.forks;
  sum.copies += counts.copies;
  sum.joined_blocks += counts.joined_blocks;
  sum.poisoned += counts.poisoned;
  sum.removed_in_step += counts.removed_in_step;
  sum.restarts += counts.restarts;
  sum.planned_ahead += counts.planned_ahead;
  sum.preempted_unknown += counts.preempted_unknown;
  sum.removed_in_flight += counts.removed_in_flight;
  sum.forked_in_flight += counts.forked_in_flight;
  sum.swapped_out += counts.swapped_out;
  sum.swapped_in += counts.swapped_in;
  sum.swapped_blocks += counts.swapped_blocks;
  sum.swapped_shared += counts.swapped_shared;
  sum.swapped_unknown += counts.swapped_unknown;
  sum.found_cached += counts.found_cached;
  sum.swap_full += counts.swap_full;
  sum.removed_swapped += counts.removed_swapped;
}

TEST(SchedulerRandom, a_history_is_a_function_of_its_seed) {
  History first(5);
  History second(5);
  first.run(3000);
  second.run(3000);
  EXPECT_EQ(first.counts(), second.counts());
}

/// QUIRE_RANDOM_OPERATIONS sets their number. A failure is repeated with one operation and the seed it names in
/// QUIRE_RANDOM_SEED.
TEST(SchedulerRandom, every_invariant_and_every_kv_slot_holds_after_each_of_a_million_random_operations) {
  const auto num_operations = static_cast<int64_t>(from_environment("QUIRE_RANDOM_OPERATIONS", kOperations));
  uint64_t seed = from_environment("QUIRE_RANDOM_SEED", 20240501);
  HistoryCounts sum;
  for (; sum.operations < num_operations; ++seed) {
    History history(seed);
    try {
      history.run(2000);
      history.drain();
    } catch (const std::exception& error) {
      FAIL() << "QUIRE_RANDOM_SEED=" << seed << ", operation " << history.counts().operations << ": " << error.what()
             << "\n  " << history.describe();
    }
    sum_up(sum, history.counts());
  }
  if (num_operations < 50'000) return;  // too few to have met everything
  const int64_t some = num_operations / 10'000;
  EXPECT_GT(sum.preemptions, some);
  EXPECT_GT(sum.cached_tokens, some);
  EXPECT_GT(sum.second_hits, some);
  EXPECT_GT(sum.forks, some);
  EXPECT_GT(sum.copies, some);
  EXPECT_GT(sum.joined_blocks, some);
  EXPECT_GT(sum.poisoned, some);
  EXPECT_GT(sum.removed_in_step, some);
  EXPECT_GT(sum.restarts, some);
  EXPECT_GT(sum.planned_ahead, some);
  EXPECT_GT(sum.preempted_unknown, some);
  EXPECT_GT(sum.removed_in_flight, some);
  EXPECT_GT(sum.forked_in_flight, some);
  EXPECT_GT(sum.swapped_out, some);
  EXPECT_GT(sum.swapped_in, some);
  EXPECT_GT(sum.swapped_shared, some);
  EXPECT_GT(sum.swapped_unknown, some);
  EXPECT_GT(sum.found_cached, some);
  EXPECT_GT(sum.swap_full, some);
  EXPECT_GT(sum.removed_swapped, some);
}

}  // namespace
}  // namespace quire
