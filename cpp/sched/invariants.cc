#include "sched/invariants.h"

#include <algorithm>
#include <initializer_list>
#include <span>

#include "core/check.h"
#include "kv/layout.h"

namespace quire {

/// The one place that looks into a scheduler from outside.
struct InvariantsAccess {
  static void take(const Scheduler& scheduler, SchedulerSnapshot& snapshot) {
    snapshot.config = scheduler.config_;
    snapshot.stats = scheduler.stats_;
    snapshot.references.clear();
    for (int32_t block = 0; block < scheduler.pool_.num_blocks(); ++block) {
      snapshot.references.push_back(scheduler.pool_.references(block));
    }
    const auto free_blocks = scheduler.pool_.free_blocks();
    snapshot.free_blocks.assign(free_blocks.begin(), free_blocks.end());
    scheduler.cache_.list_cached(snapshot.cached);
    scheduler.cache_.list_idle(snapshot.idle_blocks);
    snapshot.num_cached_blocks = scheduler.cache_.num_cached();
    snapshot.num_free_blocks = scheduler.num_free_blocks();
    const BlockPool& swapped = scheduler.swap_space_.pool();
    snapshot.swap_references.clear();
    for (int32_t block = 0; block < swapped.num_blocks(); ++block) {
      snapshot.swap_references.push_back(swapped.references(block));
    }
    snapshot.free_swap_blocks.assign(swapped.free_blocks().begin(), swapped.free_blocks().end());
    snapshot.num_swapped = scheduler.num_swapped_;
    snapshot.running.clear();
    snapshot.waiting.clear();
    bool running = true;
    for (auto place = scheduler.line_.begin(); place != scheduler.line_.end(); ++place) {
      if (place == Scheduler::Line::const_iterator(scheduler.first_waiting_)) running = false;
      (running ? snapshot.running : snapshot.waiting).push_back(&*place);
    }
    snapshot.num_known = 0;
    for (const auto& [id, place] : scheduler.places_) snapshot.num_known += place->id == id ? 1 : 0;
    snapshot.num_places = scheduler.num_places_;
    snapshot.num_in_flight = scheduler.num_in_flight_;
    snapshot.newest_step = (scheduler.next_step_ + 1) % 2;
  }
};

void take_snapshot(const Scheduler& scheduler, SchedulerSnapshot& snapshot) {
  InvariantsAccess::take(scheduler, snapshot);
}

namespace {

using Violation = std::optional<std::string>;

template <typename... Parts>
Violation violation(int rule, const Parts&... parts) {
  return detail::join_message("invariant ", rule, ": ", parts...);
}

/// Per block, what the snapshot's lists say together.
struct BlockFacts {
  int32_t owners = 0;
  int32_t idle_place = kNoBlock;  ///< place in the order of eviction
  const CachedBlock* cached = nullptr;
};

using Facts = std::vector<BlockFacts>;

bool in_range(const SchedulerSnapshot& snapshot, int32_t block) {
  return block >= 0 && block < static_cast<int32_t>(snapshot.references.size());
}

/// Hold the tables of sequences and the lists of unused blocks against the references of a pool. `owners`: by block, to
/// be counted.
Violation check_pool(std::span<const int32_t> references, std::span<const Sequence* const> sequences,
                     SequenceStatus status, std::initializer_list<std::span<const int32_t>> unused,
                     std::vector<int32_t>& owners) {
  const auto exists = [&](int32_t block) { return block >= 0 && static_cast<size_t>(block) < references.size(); };
  owners.assign(references.size(), 0);
  for (const Sequence* sequence : sequences) {
    if (sequence->status != status) continue;
    const auto table = sequence->blocks.blocks();
    for (size_t i = 0; i < table.size(); ++i) {
      if (!exists(table[i])) return violation(1, "no such block: id=", sequence->id, ", block=", table[i]);
      if (std::ranges::count(table.first(i), table[i]) > 0) {
        return violation(1, "twice in one table: id=", sequence->id, ", block=", table[i]);
      }
      ++owners[static_cast<size_t>(table[i])];
    }
  }
  std::vector<int32_t> times_unused(references.size(), 0);
  for (const auto list : unused) {
    for (const int32_t block : list) {
      if (!exists(block)) return violation(2, "no such block: block=", block);
      ++times_unused[static_cast<size_t>(block)];
    }
  }
  for (size_t block = 0; block < references.size(); ++block) {
    if (references[block] != owners[block]) {
      return violation(1, "block=", block, ", references=", references[block], ", owners=", owners[block]);
    }
    if (times_unused[block] != (references[block] == 0 ? 1 : 0)) {
      return violation(2, "block=", block, ", references=", references[block],
                       ", times free or idle=", times_unused[block]);
    }
  }
  return {};
}

Violation check_blocks(const SchedulerSnapshot& snapshot, Facts& facts) {
  std::vector<int32_t> owners;
  if (auto found = check_pool(snapshot.swap_references, snapshot.waiting, SequenceStatus::kSwapped,
                              {snapshot.free_swap_blocks}, owners)) {
    return found;
  }
  if (auto found = check_pool(snapshot.references, snapshot.running, SequenceStatus::kRunning,
                              {snapshot.free_blocks, snapshot.idle_blocks}, owners)) {
    return found;
  }
  for (size_t block = 0; block < facts.size(); ++block) facts[block].owners = owners[block];
  return {};
}

Violation check_cached_blocks(const SchedulerSnapshot& snapshot, Facts& facts) {
  for (const CachedBlock& cached : snapshot.cached) {
    if (!in_range(snapshot, cached.block)) return violation(4, "no such block: block=", cached.block);
    if (cached.found != cached.block) {
      return violation(4, "block=", cached.block, ", found by its content=", cached.found);
    }
    facts[static_cast<size_t>(cached.block)].cached = &cached;
  }
  if (snapshot.num_cached_blocks != static_cast<int32_t>(snapshot.cached.size())) {
    return violation(4, "counted=", snapshot.num_cached_blocks, ", listed=", snapshot.cached.size());
  }
  for (size_t i = 0; i < snapshot.idle_blocks.size(); ++i) {
    BlockFacts& idle = facts[static_cast<size_t>(snapshot.idle_blocks[i])];
    if (idle.cached == nullptr) return violation(3, "idle, but not cached: block=", snapshot.idle_blocks[i]);
    idle.idle_place = static_cast<int32_t>(i);
  }
  for (const int32_t block : snapshot.free_blocks) {
    if (facts[static_cast<size_t>(block)].cached != nullptr) return violation(3, "free and cached: block=", block);
  }
  if (snapshot.num_free_blocks != static_cast<int32_t>(snapshot.free_blocks.size() + snapshot.idle_blocks.size())) {
    return violation(3, "num_free_blocks=", snapshot.num_free_blocks, ", free=", snapshot.free_blocks.size(),
                     ", idle=", snapshot.idle_blocks.size());
  }
  return {};
}

Violation check_parents(const SchedulerSnapshot& snapshot, const Facts& facts) {
  for (const CachedBlock& cached : snapshot.cached) {
    if (cached.parent == kNoBlock) continue;
    if (!in_range(snapshot, cached.parent) || facts[static_cast<size_t>(cached.parent)].cached == nullptr) {
      return violation(5, "parent is not cached: block=", cached.block, ", parent=", cached.parent);
    }
    const BlockFacts& child = facts[static_cast<size_t>(cached.block)];
    const BlockFacts& parent = facts[static_cast<size_t>(cached.parent)];
    if (parent.owners < child.owners) {
      return violation(5, "block=", cached.block, ", owners=", child.owners, ", parent=", cached.parent,
                       ", owners=", parent.owners);
    }
    if (parent.idle_place != kNoBlock && parent.idle_place < child.idle_place) {
      return violation(5, "the parent is evicted first: block=", cached.block, ", parent=", cached.parent);
    }
  }
  return {};
}

Violation check_registered(const SchedulerSnapshot& snapshot, const Facts& facts) {
  const auto length = static_cast<size_t>(snapshot.config.block_size);
  for (const Sequence* sequence : snapshot.running) {
    int32_t parent = kNoBlock;
    for (int32_t index = 0; index < sequence->blocks.size(); ++index) {
      const int32_t block = sequence->blocks[index];
      const CachedBlock* cached = facts[static_cast<size_t>(block)].cached;
      if ((cached != nullptr) != (index < sequence->num_registered)) {
        return violation(6, "id=", sequence->id, ", index=", index, ", num_registered=", sequence->num_registered,
                         ", block=", block, cached != nullptr ? " is cached" : " is not cached");
      }
      if (cached == nullptr) continue;
      const auto tokens = std::span(sequence->tokens).subspan(static_cast<size_t>(index) * length, length);
      if (cached->parent != parent || cached->key_set != sequence->key_set ||
          !std::ranges::equal(cached->tokens, tokens)) {
        return violation(6, "other parent or tokens: id=", sequence->id, ", index=", index, ", block=", block);
      }
      parent = block;
    }
  }
  return {};
}

Violation check_progress(const SchedulerConfig& config, const Sequence& sequence) {
  const int32_t end = sequence.num_computed + sequence.num_planned;
  if (sequence.status == SequenceStatus::kWaiting) {
    if (end == 0 && sequence.blocks.empty() && sequence.num_registered == 0) return {};
    return violation(9, "id=", sequence.id, ", num_computed=", sequence.num_computed,
                     ", num_planned=", sequence.num_planned, ", num_blocks=", sequence.blocks.size());
  }
  if (sequence.num_computed < 0 || sequence.num_planned < 0 || end > sequence.num_tokens() ||
      (sequence.status == SequenceStatus::kSwapped && sequence.num_planned > 0) ||
      sequence.num_tokens() > config.max_model_len ||
      sequence.blocks.size() != blocks_for_tokens(end, config.block_size)) {
    return violation(10, "id=", sequence.id, ", num_computed=", sequence.num_computed,
                     ", num_planned=", sequence.num_planned, ", num_tokens=", sequence.num_tokens(),
                     ", num_blocks=", sequence.blocks.size());
  }
  if (sequence.num_registered < 0 || sequence.num_registered * config.block_size > sequence.num_settled) {
    return violation(11, "id=", sequence.id, ", num_registered=", sequence.num_registered,
                     ", num_settled=", sequence.num_settled);
  }
  if (sequence.num_cached % config.block_size != 0 || sequence.num_cached >= sequence.num_prompt_tokens) {
    return violation(11, "id=", sequence.id, ", num_cached=", sequence.num_cached,
                     ", num_prompt_tokens=", sequence.num_prompt_tokens);
  }
  return {};
}

Violation check_steps(const SchedulerSnapshot& snapshot, const Sequence& sequence) {
  const int32_t newest = sequence.settles[snapshot.newest_step];
  const int32_t oldest = sequence.settles[1 - snapshot.newest_step];
  int32_t reached = sequence.num_settled;
  bool grows = true;
  for (const int32_t next : {oldest, newest}) {
    if (next == 0) continue;
    grows = grows && next > reached;
    reached = next;
  }
  const int32_t num_steps = (newest > 0 ? 1 : 0) + (oldest > 0 ? 1 : 0);
  if (snapshot.num_in_flight < 0 || snapshot.num_in_flight > 2 || num_steps > snapshot.num_in_flight ||
      (oldest > 0 && snapshot.num_in_flight < 2) || !grows || reached != sequence.num_computed) {
    return violation(18, "id=", sequence.id, ", num_settled=", sequence.num_settled, ", settles=", oldest, " and ",
                     newest, ", num_computed=", sequence.num_computed, ", steps=", snapshot.num_in_flight);
  }
  const int32_t num_known = sequence.num_known();
  for (int32_t i = 0; i < sequence.num_tokens(); ++i) {
    if ((sequence.tokens[static_cast<size_t>(i)] < 0) == (i >= num_known)) continue;
    return violation(19, "id=", sequence.id, ", num_known=", num_known, ", token ", i);
  }
  if (sequence.num_settled > num_known || sequence.num_unknown > std::min(2, snapshot.num_in_flight + 1)) {
    return violation(19, "id=", sequence.id, ", num_settled=", sequence.num_settled, ", num_known=", num_known,
                     ", num_unknown=", sequence.num_unknown, ", steps=", snapshot.num_in_flight);
  }
  return {};
}

Violation check_sequences(const SchedulerSnapshot& snapshot) {
  if (snapshot.num_known != static_cast<int32_t>(snapshot.running.size() + snapshot.waiting.size())) {
    return violation(7, "known=", snapshot.num_known, ", running=", snapshot.running.size(),
                     ", waiting=", snapshot.waiting.size());
  }
  int32_t num_places = 0;
  const Sequence* previous = nullptr;
  for (const auto* list : {&snapshot.running, &snapshot.waiting}) {
    const bool should_run = list == &snapshot.running;
    for (const Sequence* sequence : *list) {
      const bool runs = sequence->status == SequenceStatus::kRunning;
      if (runs != should_run) return violation(7, "in the wrong place: id=", sequence->id);
      if (previous != nullptr &&
          (previous->arrival >= sequence->arrival || (sequence->admitted && !previous->admitted))) {
        return violation(8, "id=", sequence->id, ", arrival=", sequence->arrival, ", after id=", previous->id,
                         ", arrival=", previous->arrival);
      }
      previous = sequence;
      if (auto found = check_progress(snapshot.config, *sequence)) return found;
      if (auto found = check_steps(snapshot, *sequence)) return found;
      if (runs) num_places += sequence->num_reserved;
    }
  }
  if (num_places != snapshot.num_places || num_places > snapshot.config.max_num_seqs) {
    return violation(12, "places=", snapshot.num_places, ", sum=", num_places);
  }
  return {};
}

Violation check_swapped(const SchedulerSnapshot& snapshot) {
  int32_t num_swapped = 0;
  const Sequence* previous = nullptr;
  std::vector<SequenceId> groups;  // with swapped sequences
  for (const Sequence* sequence : snapshot.waiting) {
    if (sequence->status == SequenceStatus::kSwapped) {
      ++num_swapped;
      const bool is_next =
          previous != nullptr && previous->status == SequenceStatus::kSwapped && previous->group == sequence->group;
      if (!is_next && std::ranges::count(groups, sequence->group) > 0) {
        return violation(20, "apart from its group: id=", sequence->id, ", group=", sequence->group);
      }
      if (!is_next) groups.push_back(sequence->group);
    }
    previous = sequence;
  }
  for (const Sequence* sequence : snapshot.running) {
    if (std::ranges::count(groups, sequence->group) == 0) continue;
    return violation(20, "runs, but its group is swapped: id=", sequence->id, ", group=", sequence->group);
  }
  if (num_swapped != snapshot.num_swapped) {
    return violation(7, "counted as swapped=", snapshot.num_swapped, ", listed=", num_swapped);
  }
  return {};
}

Violation check_planned(const SchedulerSnapshot& snapshot, const PlannedSequence& planned, const Sequence& sequence) {
  const int32_t block_size = snapshot.config.block_size;
  const int32_t end = planned.start + planned.num_tokens;
  if (planned.id != sequence.id || planned.start != sequence.num_computed || planned.num_tokens < 1 ||
      planned.num_tokens != sequence.num_planned || planned.samples != (end == sequence.num_tokens()) ||
      planned.key_set != sequence.key_set || !std::ranges::equal(planned.tokens, sequence.tokens) ||
      !std::ranges::equal(planned.blocks, sequence.blocks.blocks())) {
    return violation(13, "planned id=", planned.id, ", start=", planned.start, ", num_tokens=", planned.num_tokens,
                     ", samples=", planned.samples, ", sequence id=", sequence.id);
  }
  for (int32_t index = planned.start / block_size; index < sequence.blocks.size(); ++index) {
    const int32_t block = sequence.blocks[index];
    if (snapshot.references[static_cast<size_t>(block)] != 1 || index < sequence.num_registered) {
      return violation(15, "id=", planned.id, ", block=", block,
                       ", references=", snapshot.references[static_cast<size_t>(block)]);
    }
  }
  return {};
}

Violation check_copies(const StepPlan& plan) {
  for (size_t i = 0; i < plan.copies.size(); ++i) {
    const auto [from, to] = plan.copies[i];
    const auto written = [to = to](const PlannedSequence& planned) {
      return std::ranges::find(planned.blocks, to) != planned.blocks.end();
    };
    if (std::ranges::count_if(plan.sequences, written) != 1 ||
        std::ranges::count(plan.copies, to, &BlockCopy::to) != 1 ||
        std::ranges::count(plan.copies, to, &BlockCopy::from) != 0) {
      return violation(17, "from=", from, ", to=", to);
    }
  }
  return {};
}

Violation check_swaps(const SchedulerSnapshot& snapshot, const StepPlan& plan) {
  if (!plan.swap_out.empty() && !plan.swap_in.empty()) {
    return violation(21, "swapped out=", plan.swap_out.size(), ", swapped in=", plan.swap_in.size());
  }
  for (const auto* moves : {&plan.swap_out, &plan.swap_in}) {
    for (const auto [from, to] : *moves) {
      if (std::ranges::count(*moves, to, &BlockCopy::to) == 1) continue;
      return violation(21, "two go to one: from=", from, ", to=", to);
    }
  }
  for (const auto [from, to] : plan.swap_out) {
    const auto owns = [to = to](const Sequence* sequence) {
      const auto own = sequence->blocks.blocks();
      return sequence->status == SequenceStatus::kSwapped && std::ranges::find(own, to) != own.end();
    };
    if (std::ranges::none_of(snapshot.waiting, owns)) return violation(21, "to nobody: from=", from, ", to=", to);
  }
  return {};
}

}  // namespace

std::optional<std::string> find_violation(const SchedulerSnapshot& snapshot) {
  Facts facts(snapshot.references.size());
  if (auto found = check_blocks(snapshot, facts)) return found;
  if (auto found = check_cached_blocks(snapshot, facts)) return found;
  if (auto found = check_parents(snapshot, facts)) return found;
  if (auto found = check_sequences(snapshot)) return found;
  if (auto found = check_swapped(snapshot)) return found;
  return check_registered(snapshot, facts);
}

std::optional<std::string> find_violation(const SchedulerSnapshot& snapshot, const StepPlan& plan) {
  int64_t num_tokens = 0;
  auto planned = plan.sequences.begin();
  const Sequence* passed_over = nullptr;
  for (const Sequence* sequence : snapshot.running) {
    if (sequence->num_planned == 0) {
      if (passed_over == nullptr && sequence->num_pending() > 0) passed_over = sequence;
      continue;
    }
    if (passed_over != nullptr) return violation(16, "id=", passed_over->id, ", planned younger id=", sequence->id);
    if (planned == plan.sequences.end()) return violation(13, "not in the plan: id=", sequence->id);
    if (auto found = check_planned(snapshot, *planned, *sequence)) return found;
    num_tokens += planned->num_tokens;
    ++planned;
  }
  if (planned != plan.sequences.end()) return violation(13, "planned, but not running: id=", planned->id);
  if (num_tokens != plan.num_tokens || num_tokens > snapshot.config.max_num_batched_tokens) {
    return violation(14, "num_tokens=", plan.num_tokens, ", sum=", num_tokens);
  }
  if (plan.empty() && (passed_over != nullptr || (snapshot.running.empty() && !snapshot.waiting.empty()))) {
    return violation(16, "nothing is planned: running=", snapshot.running.size(),
                     ", waiting=", snapshot.waiting.size());
  }
  if (auto found = check_swaps(snapshot, plan)) return found;
  return check_copies(plan);
}

}  // namespace quire
