#include "sched/history.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <utility>

#include "core/check.h"
#include "kv/layout.h"

namespace quire {

namespace {

constexpr size_t kMostLive = 24;

template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw std::runtime_error(detail::join_message(parts...));
}

SchedulerConfig any_config(std::mt19937_64& random) {
  constexpr int32_t kBlockSizes[] = {1, 2, 3, 4, 8, 16};
  constexpr int32_t kBudgets[] = {1, 2, 3, 5, 8, 16, 16, 40, 40, 200};
  SchedulerConfig config;
  config.block_size = kBlockSizes[random() % std::size(kBlockSizes)];
  const uint64_t num_pool_sizes = random() % 2 == 0 ? 9 : 57;
  config.num_blocks = 8 + static_cast<int32_t>(random() % num_pool_sizes);
  if (random() % 3 != 0) config.num_swap_blocks = 1 + static_cast<int32_t>(random() % num_pool_sizes);
  config.max_num_seqs = 1 + static_cast<int32_t>(random() % 12);
  config.max_num_batched_tokens = kBudgets[random() % std::size(kBudgets)];
  const auto most = static_cast<uint64_t>(
      std::min<int64_t>(tokens_for_blocks(config.num_blocks, config.block_size), random() % 2 == 0 ? 200 : 60));
  config.max_model_len = 2 + static_cast<int32_t>(random() % (most - 1));
  config.enable_prefix_caching = random() % 4 != 0;
  config.hash_seed = random();
  if (random() % 4 == 0) config.recompute_length = 1 + static_cast<int32_t>(random() % most);
  return config;
}

}  // namespace

History::History(uint64_t seed)
    : random_(seed),
      config_(any_config(random_)),
      scheduler_(config_),
      memory_(config_.num_blocks, config_.num_swap_blocks, config_.block_size),
      ahead_(random_() % 2 == 0) {
  for (int stem = 0; stem < 3; ++stem) {
    auto& tokens = stems_.emplace_back();
    for (int32_t i = 0; i < config_.max_model_len; ++i) tokens.push_back(between(0, 2));
  }
}

std::string History::describe() const {
  return detail::join_message("block_size=", config_.block_size, ", num_blocks=", config_.num_blocks,
                              ", num_swap_blocks=", config_.num_swap_blocks, ", max_num_seqs=", config_.max_num_seqs,
                              ", max_num_batched_tokens=", config_.max_num_batched_tokens,
                              ", max_model_len=", config_.max_model_len,
                              ", enable_prefix_caching=", config_.enable_prefix_caching,
                              ", recompute_length=", config_.recompute_length, ahead_ ? ", planned ahead" : "");
}

int32_t History::between(int32_t first, int32_t last) {
  return first + static_cast<int32_t>(below(static_cast<uint64_t>(last - first) + 1));
}

void History::run(int64_t num_operations) {
  const int64_t end = counts_.operations + num_operations;
  while (counts_.operations < end) any_operation();
}

void History::any_operation() {
  const uint64_t choice = below(100);
  if (records_.empty() || (choice < 15 && records_.size() < kMostLive)) {
    add();
  } else if (choice < 16 && chance(2)) {
    remove(std::next(records_.begin(), static_cast<ptrdiff_t>(below(records_.size())))->first);
  } else if (scheduler_.num_swapped() > 0 && chance(20)) {
    remove(any_swapped());
  } else if (step_open_) {
    if (chance(100)) {
      remove_planned();
      plan();
    } else if (ahead_) {
      launch();
      sample_ahead();
    } else {
      commit();
    }
  } else if (flights_.size() == 2 || (!flights_.empty() && chance(4))) {
    settle();
  } else if (choice > 30 || !serve_one()) {
    // Mostly all have been served before the next step, as in an engine; sometimes some have not.
    if (chance(8) || !serve_one()) plan();
  }
}

SequenceId History::any_swapped() {
  std::vector<SequenceId> swapped;
  for (const Sequence* sequence : snapshot_.waiting) {
    if (sequence->status == SequenceStatus::kSwapped) swapped.push_back(sequence->id);
  }
  return swapped[below(swapped.size())];
}

std::vector<int32_t> History::any_prompt() {
  const int32_t most = config_.max_model_len - 1;
  const auto& stem = stems_[below(stems_.size())];
  // Short prompts grow most, and running out of blocks is what they grow into.
  const int32_t length = between(1, chance(2) ? std::min(most, 4) : most);
  std::vector<int32_t> prompt(stem.begin(), stem.begin() + length);
  const int32_t room = most - static_cast<int32_t>(prompt.size());
  for (int32_t i = between(0, std::min(room, 6)); i > 0; --i) prompt.push_back(between(0, 2));
  return prompt;
}

int32_t History::any_final_length(int32_t num_prompt_tokens) {
  return chance(2) ? config_.max_model_len : between(num_prompt_tokens + 1, config_.max_model_len);
}

void History::add() {
  Record record;
  record.tokens = any_prompt();
  record.num_prompt_tokens = static_cast<int32_t>(record.tokens.size());
  record.final_length = any_final_length(record.num_prompt_tokens);
  record.use_prefix_cache = config_.enable_prefix_caching && !chance(8);
  const int32_t num_sequences = chance(2) ? between(1, std::min(config_.max_num_seqs, 6)) : 1;
  record.forks_left = num_sequences - 1;
  scheduler_.add(next_id_, record.tokens, record.use_prefix_cache, num_sequences);
  records_.emplace(next_id_++, std::move(record));
  check("add");
}

void History::plan() {
  std::optional<SequenceId> first_arrived;
  if (!snapshot_.running.empty()) first_arrived = snapshot_.running.front()->id;
  const GroupSizes running_before = running_groups();
  const StepPlan& plan = scheduler_.plan();
  step_open_ = true;
  planned_.clear();
  sampling_.clear();
  spoiled_.clear();
  note_preemptions(plan, running_before);
  note_returns();
  StepPlan resolved = plan;  // as the device sees it
  for (PlannedSequence& planned : resolved.sequences) {
    planned_.push_back(planned.id);
    if (planned.samples) sampling_.push_back(planned.id);
    if (chance(64)) spoiled_.insert(planned.id);
    expect(planned);
    planned.tokens = records_.at(planned.id).tokens;
  }
  memory_.execute(resolved, [&](SequenceId id) { return spoiled_.contains(id); });
  if (!flights_.empty()) counts_.planned_ahead += static_cast<int64_t>(planned_.size());
  counts_.copies += static_cast<int64_t>(plan.copies.size());
  check("plan");
  if (const auto found = find_violation(snapshot_, plan)) require(false, *found);
  int32_t num_idle = 0;
  for (const Sequence* sequence : snapshot_.running) num_idle += sequence->num_pending() == 0 ? 1 : 0;
  const auto num_moving = static_cast<int32_t>(plan.sequences.size());
  require(num_moving == std::min(scheduler_.num_running() - num_idle, config_.max_num_batched_tokens),
          "not all that could move were planned: planned=", num_moving);
  require(!first_arrived || (!snapshot_.running.empty() && snapshot_.running.front()->id == first_arrived),
          "the first arrived was preempted");
  require(scheduler_.stats().num_preemptions == counts_.preemptions &&
              scheduler_.stats().num_swap_preemptions == counts_.swapped_out &&
              scheduler_.stats().num_cached_tokens == counts_.cached_tokens,
          "wrong stats");
}

/// Running sequences by group, but for the first arrived's, which is never swapped out.
History::GroupSizes History::running_groups() const {
  GroupSizes sizes;
  for (const Sequence* sequence : snapshot_.running) {
    if (sequence->group != snapshot_.running.front()->group) ++sizes[sequence->group];
  }
  return sizes;
}

void History::note_preemptions(const StepPlan& plan, const GroupSizes& running_before) {
  int64_t num_blocks = 0;  // of what has been swapped out, each sequence counted for itself
  for (auto& [id, record] : records_) {
    const Sequence& sequence = scheduler_.sequence(id);
    if (sequence.status == SequenceStatus::kRunning) continue;
    const int64_t is_unknown = record.num_unknown > 0 ? 1 : 0;
    // One that starts (again) now is told apart in expect() by being marked as not running.
    if (!std::exchange(record.running, false)) continue;
    ++counts_.preemptions;
    if (sequence.status == SequenceStatus::kSwapped) {
      record.swapped = true;
      ++counts_.swapped_out;
      counts_.swapped_unknown += is_unknown;
      num_blocks += sequence.blocks.size();
    } else {
      counts_.preempted_unknown += is_unknown;
      const auto group = running_before.find(sequence.group);
      const bool has_others = group != running_before.end() && group->second > 1;
      counts_.swap_full += config_.num_swap_blocks > 0 && has_others ? 1 : 0;
    }
  }
  const auto num_copied = static_cast<int64_t>(plan.swap_out.size());
  counts_.swapped_blocks += num_copied;
  counts_.swapped_shared += num_blocks - num_copied;
}

void History::note_returns() {
  for (auto& [id, record] : records_) {
    const Sequence& sequence = scheduler_.sequence(id);
    if (!record.swapped || sequence.status == SequenceStatus::kSwapped) continue;
    record.swapped = false;
    ++counts_.swapped_in;
    record.running = sequence.status == SequenceStatus::kRunning;
    if (record.running) {
      counts_.found_cached += sequence.num_registered;
    } else {
      ++counts_.preemptions;  // alone, its group is too large
    }
  }
}

void History::expect(const PlannedSequence& planned) {
  Record& record = records_.at(planned.id);
  const Sequence& sequence = scheduler_.sequence(planned.id);
  if (!record.running) {
    require(record.use_prefix_cache || planned.start == 0, "took blocks against its will: id=", planned.id);
    require(planned.start % config_.block_size == 0, "took a part of a block: id=", planned.id);
    // What it took must be what it would have computed.
    record.values.clear();
    for (int32_t position = 0; position < planned.start; ++position) {
      const uint64_t before = position == 0 ? 0 : record.values.back();
      record.values.push_back(FakeMemory::value_after(before, record.tokens[static_cast<size_t>(position)]));
    }
    if (!record.has_run) {
      counts_.cached_tokens += planned.start;
      require(sequence.num_cached == planned.start, "wrong num_cached: id=", planned.id);
    } else if (planned.start > 0) {
      ++counts_.second_hits;
    }
    record.running = record.has_run = true;
    record.num_registered = planned.start / config_.block_size;
  }
  if (planned.start == 0 && !record.values.empty()) ++counts_.restarts;
  record.values.resize(static_cast<size_t>(planned.start));
  for (int32_t position = planned.start; position < planned.start + planned.num_tokens; ++position) {
    const uint64_t before = position == 0 ? 0 : record.values.back();
    record.values.push_back(spoiled_.contains(planned.id)
                                ? FakeMemory::spoiled(planned.id, position)
                                : FakeMemory::value_after(before, record.tokens[static_cast<size_t>(position)]));
  }
}

void History::commit() {
  launch();
  settle();
}

void History::launch() {
  scheduler_.launched();
  step_open_ = false;
  flights_.push_back({.planned = planned_, .spoiled = spoiled_, .spoiled_forks = {}, .unknown = {}});
  check("launched");
}

/// Make forks and give every sequence of the step that has just been launched a token that is not known yet, as an
/// engine would.
void History::sample_ahead() {
  Flight& flight = flights_.back();
  for (const SequenceId parent : sampling_) {
    if (!scheduler_.contains(parent)) continue;
    std::vector<SequenceId> group = {parent};
    while (records_.at(parent).forks_left > 0) {
      group.push_back(next_id_);
      fork(parent);
      ++counts_.forked_in_flight;
    }
    for (const SequenceId id : group) {
      Record& record = records_.at(id);
      if (static_cast<int32_t>(record.tokens.size()) == record.final_length) continue;
      record.tokens.push_back(between(0, 2));
      ++record.num_unknown;
      scheduler_.append(id, -1 - static_cast<int32_t>(flight.unknown.size()));
      flight.unknown.push_back(id);
      check("append of an unknown token");
    }
  }
}

void History::settle() {
  const Flight flight = std::move(flights_.front());
  flights_.pop_front();
  std::map<SequenceId, std::vector<int32_t>> blocks_before;
  std::set<SequenceId> taking_part(flight.planned.begin(), flight.planned.end());
  taking_part.insert(flight.spoiled_forks.begin(), flight.spoiled_forks.end());
  for (const SequenceId id : taking_part) {
    if (!scheduler_.contains(id)) continue;
    const Sequence& sequence = scheduler_.sequence(id);
    blocks_before[id].assign(sequence.blocks.blocks().begin(), sequence.blocks.blocks().end());
    Record& record = records_.at(id);
    const bool fork_is_spoiled = flight.spoiled_forks.contains(id) && sequence.prompt_owner != id;
    if (record.poisoned || !(flight.spoiled.contains(id) || fork_is_spoiled)) continue;
    record.poisoned = true;
    // What has been settled before may be cached, and no more, unless it starts again.
    record.num_registered = sequence.num_settled / config_.block_size;
    ++counts_.poisoned;
  }
  // Includes ids that have been removed since.
  const std::vector<SequenceId> poisoned(flight.spoiled.begin(), flight.spoiled.end());
  scheduler_.settle(poisoned);
  for (const auto& [id, before] : blocks_before) {
    const auto after = scheduler_.sequence(id).blocks.blocks();
    for (size_t i = 0; i < before.size(); ++i) counts_.joined_blocks += before[i] != after[i] ? 1 : 0;
  }
  check("settle");
  for (const SequenceId id : flight.unknown) {
    if (!scheduler_.contains(id)) continue;
    Record& record = records_.at(id);
    if (chance(20)) {
      remove(id);  // the token ends it, and its next one may be on its way
    } else {
      scheduler_.resolve(id, record.tokens[record.tokens.size() - static_cast<size_t>(record.num_unknown)]);
      --record.num_unknown;
      check("resolve");
    }
  }
  for (const SequenceId id : poisoned) {
    if (scheduler_.contains(id) && chance(2)) remove(id);
  }
}

bool History::serve_one() {
  if (step_open_) return false;
  std::vector<SequenceId> complete;
  for (const auto& [id, record] : records_) {
    const Sequence& sequence = scheduler_.sequence(id);
    if (sequence.status == SequenceStatus::kRunning && sequence.num_pending() == 0 &&
        sequence.num_settled == sequence.num_computed) {
      complete.push_back(id);
    }
  }
  if (complete.empty()) return false;
  const SequenceId id = complete[below(complete.size())];
  Record& record = records_.at(id);
  if (record.forks_left > 0 && !chance(10)) {
    fork(id);
  } else if (static_cast<int32_t>(record.tokens.size()) == record.final_length) {
    remove(id);
  } else {
    record.forks_left = 0;
    record.tokens.push_back(between(0, 2));
    scheduler_.append(id, record.tokens.back());
    check("append");
  }
  return true;
}

void History::fork(SequenceId parent) {
  Record& record = records_.at(parent);
  --record.forks_left;
  Record child = record;
  child.forks_left = 0;
  child.final_length = any_final_length(child.num_prompt_tokens);
  scheduler_.fork(parent, next_id_);
  for (Flight& flight : flights_) {
    if (flight.spoiled.contains(parent)) flight.spoiled_forks.insert(next_id_);
  }
  records_.emplace(next_id_++, std::move(child));
  ++counts_.forks;
  check("fork");
}

void History::remove(SequenceId id) {
  const Sequence& sequence = scheduler_.sequence(id);
  if (step_open_ && sequence.num_planned > 0) ++counts_.removed_in_step;
  if (sequence.num_settled < sequence.num_computed) ++counts_.removed_in_flight;
  if (sequence.status == SequenceStatus::kSwapped) ++counts_.removed_swapped;
  scheduler_.remove(id);
  records_.erase(id);
  check("remove");
}

void History::remove_planned() {
  for (const SequenceId id : planned_) {
    if (scheduler_.contains(id)) remove(id);
  }
}

void History::drain() {
  // The first arrived moves in every step, unless it waits for a token, so this many steps are enough for all.
  int64_t most_steps = 4;
  for (const auto& [id, record] : records_) {
    most_steps += 3 * static_cast<int64_t>(record.forks_left + 1) * config_.max_model_len;
  }
  while (!records_.empty()) {
    if (step_open_) {
      launch();
      if (ahead_) sample_ahead();
      if (!ahead_ || flights_.size() == 2 || planned_.empty()) settle();
    }
    while (serve_one()) {
    }
    if (records_.empty()) break;
    require(most_steps-- > 0, "sequences do not end: left=", records_.size());
    if (flights_.size() == 2) settle();
    plan();
  }
  if (step_open_) launch();
  while (!flights_.empty()) settle();
  require(scheduler_.num_running() == 0 && scheduler_.num_waiting() == 0, "ghosts are left");
  require(scheduler_.num_swapped() == 0, "ghosts are left in the host's memory");
  require(scheduler_.num_free_blocks() == config_.num_blocks, "blocks are lost");
  require(scheduler_.num_free_swap_blocks() == config_.num_swap_blocks, "blocks of the host are lost");
}

void History::check(const std::string& operation) {
  ++counts_.operations;
  try {
    take_snapshot(scheduler_, snapshot_);
    if (const auto found = find_violation(snapshot_)) require(false, *found);
    check_contents();
  } catch (const std::exception& error) {
    throw std::runtime_error("after " + operation + ": " + error.what());
  }
}

void History::check_contents() {
  require(snapshot_.running.size() + snapshot_.waiting.size() == records_.size(), "other sequences than were added");
  for (const auto& [id, record] : records_) {
    const Sequence& sequence = scheduler_.sequence(id);
    require(sequence.num_unknown == record.num_unknown && sequence.tokens.size() == record.tokens.size() &&
                std::equal(record.tokens.begin(), record.tokens.end() - record.num_unknown, sequence.tokens.begin()),
            "other tokens: id=", id);
    require(!record.poisoned || sequence.num_registered <= record.num_registered, "poison is cached: id=", id);
    const bool is_swapped = sequence.status == SequenceStatus::kSwapped;
    const auto read = is_swapped ? &FakeMemory::read_swapped : &FakeMemory::read;
    for (int32_t position = 0; position < sequence.num_computed; ++position) {
      require((memory_.*read)(sequence.blocks.blocks(), position) == record.values[static_cast<size_t>(position)],
              "wrong content: id=", id, ", position=", position, is_swapped ? ", swapped out" : "");
    }
  }
}

}  // namespace quire
