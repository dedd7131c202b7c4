#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "sched/fake_memory.h"
#include "sched/invariants.h"
#include "sched/scheduler.h"

namespace quire {

/// How often the rare things happened, so that a test can say that it has met them.
struct HistoryCounts {
  int64_t operations = 0;
  int64_t preemptions = 0;
  int64_t cached_tokens = 0;
  int64_t second_hits = 0;  ///< preempted sequences that found some of their blocks again
  int64_t forks = 0;
  int64_t copies = 0;
  int64_t joined_blocks = 0;  ///< own blocks given up for equal cached ones
  int64_t poisoned = 0;
  int64_t removed_in_step = 0;
  int64_t restarts = 0;           ///< of sequences that have outgrown their keys
  int64_t planned_ahead = 0;      ///< sequences, while a step was on its way
  int64_t preempted_unknown = 0;  ///< sequences whose last token was not known
  int64_t removed_in_flight = 0;  ///< sequences, while a step that they are in was on its way
  int64_t forked_in_flight = 0;
  int64_t swapped_out = 0;      ///< sequences
  int64_t swapped_in = 0;       ///< sequences
  int64_t swapped_blocks = 0;   ///< copied out
  int64_t swapped_shared = 0;   ///< blocks less to copy, because sequences of the group share them
  int64_t swapped_unknown = 0;  ///< sequences whose last token was not known
  int64_t found_cached = 0;     ///< blocks that swapped-in sequences found in the prefix cache
  int64_t swap_full = 0;        ///< preemptions of several sequences that the host had no room for
  int64_t removed_swapped = 0;

  bool operator==(const HistoryCounts&) const = default;
};

/// A random life of one scheduler under a random configuration, a pure function of its seed. In half of them steps are
/// planned ahead, as for a device that runs behind its host. After every operation all
/// invariants are checked and every computed slot of every sequence is compared with what a sequence alone would hold.
/// Throws std::runtime_error saying what is wrong, or the scheduler's own error.
class History {
 public:
  explicit History(uint64_t seed);

  /// Do random operations.
  void run(int64_t num_operations);

  /// Add nothing more and step, as an engine would, until every sequence has ended.
  void drain();

  const HistoryCounts& counts() const { return counts_; }
  /// The configuration, for a failure's message.
  std::string describe() const;

 private:
  /// What the scheduler should know and hold about one sequence.
  struct Record {
    std::vector<int32_t> tokens;   ///< as they will be known
    int32_t num_unknown = 0;       ///< of them, the last ones
    std::vector<uint64_t> values;  ///< by position: what its slot must hold, once computed
    int32_t num_prompt_tokens = 0;
    int32_t final_length = 0;  ///< it ends when it is so long
    int32_t forks_left = 0;
    bool use_prefix_cache = true;
    bool running = false;
    bool swapped = false;
    bool has_run = false;
    bool poisoned = false;
    int32_t num_registered = 0;  ///< most, if it is poisoned
  };
  using Records = std::map<SequenceId, Record>;

  uint64_t below(uint64_t bound) { return random_() % bound; }
  int32_t between(int32_t first, int32_t last);
  bool chance(uint64_t one_in) { return below(one_in) == 0; }

  void any_operation();
  void add();
  SequenceId any_swapped();
  std::vector<int32_t> any_prompt();
  int32_t any_final_length(int32_t num_prompt_tokens);
  void plan();
  void expect(const PlannedSequence& planned);
  using GroupSizes = std::map<SequenceId, int32_t>;
  GroupSizes running_groups() const;
  void note_preemptions(const StepPlan& plan, const GroupSizes& running_before);
  void note_returns();
  void launch();
  void sample_ahead();
  void settle();
  void commit();
  /// Fork, append to or end a sequence whose tokens are all computed. False if there is none.
  bool serve_one();
  void fork(SequenceId parent);
  void remove(SequenceId id);
  void remove_planned();
  void check(const std::string& operation);
  void check_contents();

  std::mt19937_64 random_;
  SchedulerConfig config_;
  Scheduler scheduler_;
  FakeMemory memory_;
  Records records_;
  std::vector<std::vector<int32_t>> stems_;  ///< beginnings that prompts share
  SchedulerSnapshot snapshot_;
  SequenceId next_id_ = 0;
  bool ahead_ = false;
  bool step_open_ = false;
  std::vector<SequenceId> planned_;
  std::vector<SequenceId> sampling_;  ///< of planned_, those whose last token is computed
  std::set<SequenceId> spoiled_;      ///< in this step

  /// A step on its way.
  struct Flight {
    std::vector<SequenceId> planned;
    std::set<SequenceId> spoiled;
    std::set<SequenceId> spoiled_forks;  ///< made since, of spoiled ones
    std::vector<SequenceId> unknown;     ///< sequences that were given a token not known yet
  };
  std::deque<Flight> flights_;
  HistoryCounts counts_;
};

}  // namespace quire
