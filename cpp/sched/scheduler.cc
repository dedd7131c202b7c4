#include "sched/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/check.h"

namespace quire {

namespace {

/// Free blocks left by admission, in parts of the pool: room for running sequences to grow before one is preempted.
constexpr int32_t kWatermarkDivisor = 100;

/// The part of the token budget that running sequences leave to prompts.
constexpr int32_t kPromptShareDivisor = 4;

const SchedulerConfig& checked(const SchedulerConfig& config) {
  QUIRE_CHECK(config.block_size >= 1 && config.num_blocks >= 1, "block_size=", config.block_size,
              ", num_blocks=", config.num_blocks);
  QUIRE_CHECK(config.max_num_seqs >= 1 && config.max_num_batched_tokens >= 1, "max_num_seqs=", config.max_num_seqs,
              ", max_num_batched_tokens=", config.max_num_batched_tokens);
  QUIRE_CHECK(
      config.max_model_len >= 1 && config.max_model_len <= tokens_for_blocks(config.num_blocks, config.block_size),
      "the longest sequence must fit the pool: max_model_len=", config.max_model_len,
      ", num_blocks=", config.num_blocks, ", block_size=", config.block_size);
  return config;
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config)
    : config_(checked(config)),
      max_running_(std::min(config.max_num_seqs,
                            config.max_num_batched_tokens - config.max_num_batched_tokens / kPromptShareDivisor)),
      watermark_blocks_(std::max(1, config.num_blocks / kWatermarkDivisor)),
      pool_(config.num_blocks),
      cache_(pool_, config.block_size, config.hash_seed),
      swap_space_(config.num_swap_blocks),
      first_waiting_(line_.end()) {
  // Enough for every step, so that planning allocates nothing.
  const auto most_planned = static_cast<size_t>(std::min(config.max_num_seqs, config.max_num_batched_tokens));
  plan_.sequences.reserve(most_planned);
  plan_.copies.reserve(most_planned);
  hits_.reserve(static_cast<size_t>(blocks_for(config.max_model_len)));
}

Sequence& Scheduler::find(SequenceId id) {
  const auto place = places_.find(id);
  QUIRE_CHECK(place != places_.end(), "unknown sequence: id=", id);
  return *place->second;
}

const Sequence& Scheduler::sequence(SequenceId id) const {
  const auto place = places_.find(id);
  QUIRE_CHECK(place != places_.end(), "unknown sequence: id=", id);
  return *place->second;
}

void Scheduler::add(SequenceId id, std::vector<int32_t> tokens, bool use_prefix_cache, int32_t num_sequences_reserved,
                    int32_t key_set) {
  QUIRE_CHECK(!contains(id), "id=", id);
  QUIRE_CHECK(!tokens.empty() && tokens.size() < static_cast<size_t>(config_.max_model_len), "id=", id,
              ", num_tokens=", tokens.size(), ", max_model_len=", config_.max_model_len);
  QUIRE_CHECK(num_sequences_reserved >= 1 && num_sequences_reserved <= config_.max_num_seqs, "id=", id,
              ", num_sequences_reserved=", num_sequences_reserved, ", max_num_seqs=", config_.max_num_seqs);
  Line added;  // joins the line once nothing can fail any more
  Sequence& sequence = added.emplace_back();
  sequence.id = sequence.group = id;
  sequence.tokens = std::move(tokens);
  sequence.num_prompt_tokens = sequence.num_tokens();
  sequence.use_prefix_cache = use_prefix_cache && config_.enable_prefix_caching;
  sequence.num_reserved = num_sequences_reserved;
  sequence.key_set = key_set;
  sequence.prompt_owner = id;
  sequence.arrival = next_arrival_;
  places_.emplace(id, added.begin());
  next_arrival_ += static_cast<uint64_t>(num_sequences_reserved);
  const bool none_waits = first_waiting_ == line_.end();
  line_.splice(line_.end(), added);
  if (none_waits) first_waiting_ = std::prev(line_.end());
}

void Scheduler::fork(SequenceId parent_id, SequenceId child_id) {
  Sequence& parent = find(parent_id);
  QUIRE_CHECK(!contains(child_id), "child=", child_id);
  QUIRE_CHECK(parent.status == SequenceStatus::kRunning && parent.num_computed == parent.num_prompt_tokens &&
                  parent.num_pending() == 0,
              "a sequence is forked when its prompt is computed: parent=", parent_id,
              ", num_prompt_tokens=", parent.num_prompt_tokens, ", num_computed=", parent.num_computed,
              ", num_tokens=", parent.num_tokens());
  QUIRE_CHECK(parent.num_reserved >= 2, "no place is reserved for a fork: parent=", parent_id);
  Line added;
  Sequence& child = added.emplace_back(parent);
  child.id = child_id;
  child.num_reserved = 1;
  // Older than the forks before it, so that it may run even if one of those has been preempted.
  child.arrival = parent.arrival + static_cast<uint64_t>(parent.num_reserved) - 1;
  child.blocks.reserve(blocks_for(config_.max_model_len));
  places_.emplace(child_id, added.begin());
  --parent.num_reserved;
  for (const int32_t block : child.blocks.blocks()) cache_.retain(block);
  line_.splice(std::next(places_.find(parent_id)->second), added);
  ++num_running_;
}

const StepPlan& Scheduler::plan() {
  begin_step();
  restart_outgrown();
  const bool preempted = give_one_token_each(line_.begin());
  extend_prompts();
  if (!preempted) admit_waiting();
  finish_plan();
  return plan_;
}

void Scheduler::begin_step() {
  QUIRE_CHECK(num_in_flight_ <= 1, "too many steps have not been settled: ", num_in_flight_);
  if (step_open_) {
    for (auto place = line_.begin(); place != first_waiting_; ++place) {
      QUIRE_CHECK(place->num_planned == 0, "the last step has not been launched: id=", place->id);
    }
  }
  step_open_ = true;
  budget_ = config_.max_num_batched_tokens;
  plan_.sequences.clear();
  plan_.swap_out.clear();
  plan_.swap_in.clear();
  plan_.copies.clear();
}

void Scheduler::restart_outgrown() {
  if (config_.recompute_length == 0) return;
  for (auto place = line_.begin(); place != first_waiting_; ++place) {
    if (place->key_set > 0 || place->num_tokens() <= config_.recompute_length) continue;
    place->key_set = 1;
    forget(*place);
  }
}

bool Scheduler::give_one_token_each(Line::iterator place) {
  bool preempted = false;
  while (place != first_waiting_ && budget_ > 0) {
    const SequenceGroup group = group_at(place);
    if (blocks_for_next_tokens(group) > cache_.num_available()) {
      preempt_youngest();  // perhaps one of this group, or all of it
      preempted = true;
      continue;
    }
    for (Sequence& sequence : group) {
      if (budget_ == 0) break;
      if (sequence.num_pending() == 0) continue;
      make_next_token_writable(sequence);
      sequence.num_planned = 1;
      --budget_;
    }
    place = group.end();
  }
  return preempted;
}

/// The sequences from `first` on that belong to its request and are in the same state.
SequenceGroup Scheduler::group_at(Line::iterator first) {
  const auto differs = [&](const Sequence& other) {
    return other.group != first->group || other.status != first->status;
  };
  return {first, std::find_if(first, line_.end(), differs)};
}

SequenceGroup Scheduler::youngest_group() {
  auto first = std::prev(first_waiting_);
  while (first != line_.begin() && std::prev(first)->group == first->group) --first;
  return {first, first_waiting_};
}

int32_t Scheduler::blocks_for_next_tokens(SequenceGroup group) const {
  int32_t needed = 0;
  int32_t num_served = 0;
  int32_t shared = kNoBlock;  // what forks share and write to: the block in which their prompt ends, and no other
  int32_t num_writers = 0;
  for (const Sequence& sequence : group) {
    if (num_served == budget_) break;
    if (sequence.num_pending() == 0) continue;
    ++num_served;
    const int32_t index = sequence.num_computed / config_.block_size;
    if (index == sequence.blocks.size()) {
      ++needed;
    } else if (pool_.references(sequence.blocks[index]) > 1) {
      shared = sequence.blocks[index];
      ++num_writers;
    }
  }
  const bool last_writer_keeps_it = num_writers > 0 && num_writers == pool_.references(shared);
  return needed + num_writers - (last_writer_keeps_it ? 1 : 0);
}

void Scheduler::make_next_token_writable(Sequence& sequence) {
  const int32_t index = sequence.num_computed / config_.block_size;
  if (index == sequence.blocks.size()) {
    sequence.blocks.append(cache_.take());
    return;
  }
  const int32_t source = sequence.blocks[index];
  if (pool_.references(source) == 1) return;
  // The source keeps an owner, a fork that this step serves as well or passes over; and who has been served is not
  // preempted any more.
  const int32_t block = cache_.take();
  plan_.copies.push_back({.from = source, .to = block});
  sequence.blocks.replace(index, block);
  cache_.release(source);
}

void Scheduler::preempt_youngest() {
  QUIRE_CHECK(num_running_ > 1, "a lone sequence has no room: num_blocks=", config_.num_blocks);
  const SequenceGroup group = youngest_group();
  if (group.begin() != line_.begin() && swap_out(group)) return;
  Sequence& youngest = *--first_waiting_;
  forget(youngest);
  stop_running(youngest, SequenceStatus::kWaiting);
}

/// Whether the group could be swapped out. A sequence alone is not, as in vLLM: it shares its blocks with none of its
/// own, and often finds most of them in the prefix cache again.
bool Scheduler::swap_out(SequenceGroup group) {
  if (std::next(group.begin()) == group.end() || !swap_space_.has_room_for(group)) return false;
  QUIRE_CHECK(plan_.swap_in.empty(), "a step swaps in before it swaps out");
  swap_space_.move_out(group, cache_, plan_.swap_out);
  for (Sequence& sequence : group) {
    stop_running(sequence, SequenceStatus::kSwapped);
    ++num_swapped_;
    ++stats_.num_swap_preemptions;
  }
  first_waiting_ = group.begin();
  return true;
}

void Scheduler::start_running(Sequence& sequence) {
  sequence.status = SequenceStatus::kRunning;
  ++num_running_;
  num_places_ += sequence.num_reserved;
}

void Scheduler::stop_running(Sequence& sequence, SequenceStatus status) {
  sequence.status = status;
  --num_running_;
  num_places_ -= sequence.num_reserved;
  ++stats_.num_preemptions;
}

void Scheduler::extend_prompts() {
  for (auto place = line_.begin(); place != first_waiting_ && budget_ > 0; ++place) {
    if (place->num_planned > 0) plan_tokens(*place, place->num_pending() - place->num_planned);
  }
}

void Scheduler::plan_tokens(Sequence& sequence, int32_t wanted) {
  const int32_t planned_end = sequence.num_computed + sequence.num_planned;
  const int64_t capacity =
      tokens_for_blocks(sequence.blocks.size() + cache_.num_available(), config_.block_size) - planned_end;
  const auto given = static_cast<int32_t>(std::min<int64_t>(capacity, std::min(wanted, budget_)));
  sequence.num_planned += given;
  budget_ -= given;
  const int32_t num_blocks = blocks_for(planned_end + given);
  while (sequence.blocks.size() < num_blocks) sequence.blocks.append(cache_.take());
}

void Scheduler::admit_waiting() {
  // Budget is left only when running prompts have got all they can, so they will not need more blocks than they have.
  while (first_waiting_ != line_.end() && budget_ > 0) {
    const bool is_swapped = first_waiting_->status == SequenceStatus::kSwapped;
    if (!(is_swapped ? swap_in_first() : admit_first())) return;
  }
}

bool Scheduler::admit_first() {
  Sequence& first = *first_waiting_;
  const bool alone = num_running_ == 0;
  if (!alone && num_places_ + first.num_reserved > max_running_) return false;
  find_prefix(first);
  if (!alone && !fits(first)) return false;
  admit(first);
  return true;
}

bool Scheduler::swap_in_first() {
  const SequenceGroup group = group_at(first_waiting_);
  if (num_running_ > 0 && !fits(group)) return false;
  swap_space_.move_in(group, cache_, plan_.swap_in);
  for (Sequence& sequence : group) {
    start_running(sequence);
    --num_swapped_;
  }
  first_waiting_ = group.end();
  // Alone it may have room for what it has and not for more.
  const bool preempted = give_one_token_each(group.begin());
  extend_prompts();
  return !preempted;
}

void Scheduler::find_prefix(const Sequence& sequence) {
  // One token at least is computed, for its logits; and sharing whole blocks only, it is written to an own block.
  const int32_t most = std::min(sequence.num_tokens() - 1, sequence.num_known()) / config_.block_size;
  cache_.find_prefix(sequence.tokens, sequence.use_prefix_cache ? most : 0, sequence.key_set, hits_);
}

bool Scheduler::fits(const Sequence& sequence) const {
  const auto used = std::ranges::count_if(hits_, [&](int32_t block) { return !cache_.is_idle(block); });
  // Forks share all of them, and each will soon need one more.
  const int32_t needed = blocks_for(sequence.num_tokens()) - static_cast<int32_t>(used) + sequence.num_reserved - 1;
  return needed + watermark_blocks_ <= cache_.num_available();
}

bool Scheduler::fits(SequenceGroup swapped) {
  int32_t num_reserved = 0;
  int32_t num_more_blocks = 0;
  for (const Sequence& sequence : swapped) {
    num_reserved += sequence.num_reserved;
    num_more_blocks += std::max(1, blocks_for(sequence.num_tokens()) - sequence.blocks.size());
  }
  if (std::ranges::distance(swapped) > budget_ || num_places_ + num_reserved > max_running_) return false;
  const int32_t needed = swap_space_.num_blocks_to_move_in(swapped, cache_) + num_more_blocks;
  return needed + watermark_blocks_ <= cache_.num_available();
}

void Scheduler::admit(Sequence& sequence) {
  sequence.blocks.reserve(blocks_for(config_.max_model_len));
  for (const int32_t block : hits_) {
    cache_.retain(block);
    sequence.blocks.append(block);
  }
  sequence.num_registered = sequence.blocks.size();
  sequence.num_computed = sequence.num_settled = sequence.num_registered * config_.block_size;
  if (!sequence.admitted) {
    sequence.admitted = true;
    sequence.num_cached = sequence.num_computed;
    stats_.num_cached_tokens += sequence.num_cached;
  }
  ++first_waiting_;
  start_running(sequence);
  plan_tokens(sequence, sequence.num_pending());
}

void Scheduler::finish_plan() {
  plan_.num_tokens = config_.max_num_batched_tokens - budget_;
  for (auto place = line_.begin(); place != first_waiting_; ++place) {
    if (place->num_planned == 0) continue;
    plan_.sequences.push_back({.id = place->id,
                               .start = place->num_computed,
                               .num_tokens = place->num_planned,
                               .samples = place->num_planned == place->num_pending(),
                               .key_set = place->key_set,
                               .tokens = place->tokens,
                               .blocks = place->blocks.blocks()});
  }
}

void Scheduler::launched() {
  QUIRE_CHECK(step_open_, "no step has been planned");
  step_open_ = false;
  const size_t step = next_step_ % 2;
  for (auto place = line_.begin(); place != first_waiting_; ++place) {
    if (place->num_planned == 0) continue;
    place->num_computed += place->num_planned;
    place->num_planned = 0;
    place->settles[step] = place->num_computed;
  }
  ++next_step_;
  ++num_in_flight_;
}

void Scheduler::settle(std::span<const SequenceId> poisoned) {
  QUIRE_CHECK(num_in_flight_ > 0, "no step has been launched");
  const size_t step = (next_step_ - static_cast<uint32_t>(num_in_flight_)) % 2;
  // Those that have run: some may have been swapped out since.
  const auto end = std::ranges::find(line_, false, &Sequence::admitted);
  for (auto place = line_.begin(); place != end; ++place) {
    QUIRE_CHECK(place->settles[step] <= place->num_known(), "tokens of the step before are not known: id=", place->id);
  }
  // Steps of those that were swapped out have been settled without this. Before the poison, which has no part in them.
  for (auto place = line_.begin(); place != first_waiting_; ++place) register_full_blocks(*place);
  for (const SequenceId id : poisoned) {
    if (contains(id)) find(id).poisoned = true;
  }
  --num_in_flight_;
  for (auto place = line_.begin(); place != end; ++place) {
    if (place->settles[step] == 0) continue;
    place->num_settled = std::exchange(place->settles[step], 0);
    // Forks made while the step was on its way share what it has computed.
    if (place->num_settled <= place->num_prompt_tokens && std::ranges::count(poisoned, place->prompt_owner) > 0) {
      place->poisoned = true;
    }
    if (place->status == SequenceStatus::kRunning) register_full_blocks(*place);
  }
  check_counts();
}

void Scheduler::register_full_blocks(Sequence& sequence) {
  if (!config_.enable_prefix_caching || sequence.poisoned) return;
  const int32_t num_full = sequence.num_settled / config_.block_size;
  const auto length = static_cast<size_t>(config_.block_size);
  for (int32_t& index = sequence.num_registered; index < num_full; ++index) {
    const int32_t parent = index == 0 ? kNoBlock : sequence.blocks[index - 1];
    const int32_t own = sequence.blocks[index];
    if (cache_.is_cached(own)) continue;  // shared with a fork, which has been here before
    const auto tokens = std::span(sequence.tokens).subspan(static_cast<size_t>(index) * length, length);
    const int32_t cached = cache_.insert(parent, own, tokens, sequence.key_set);
    if (cached == own) continue;
    // Another sequence computed the same block in the same step or before this one could find it.
    cache_.retain(cached);
    sequence.blocks.replace(index, cached);
    cache_.release(own);
  }
}

void Scheduler::append(SequenceId id, int32_t token) {
  Sequence& sequence = find(id);
  QUIRE_CHECK(sequence.status == SequenceStatus::kRunning && sequence.num_pending() == 0,
              "a token is appended when all before it are computed: id=", id, ", num_tokens=", sequence.num_tokens(),
              ", num_computed=", sequence.num_computed);
  QUIRE_CHECK(sequence.num_tokens() < config_.max_model_len, "id=", id, ", max_model_len=", config_.max_model_len);
  QUIRE_CHECK(token < 0 || sequence.num_unknown == 0, "a token before it is not known: id=", id);
  sequence.tokens.push_back(token);
  if (token < 0) ++sequence.num_unknown;
  num_places_ -= sequence.num_reserved - 1;
  sequence.num_reserved = 1;
}

void Scheduler::resolve(SequenceId id, int32_t token) {
  Sequence& sequence = find(id);
  QUIRE_CHECK(sequence.num_unknown > 0 && token >= 0, "id=", id, ", num_unknown=", sequence.num_unknown,
              ", token=", token);
  sequence.tokens[static_cast<size_t>(sequence.num_known())] = token;
  --sequence.num_unknown;
}

void Scheduler::remove(SequenceId id) {
  const auto place = places_.find(id);
  QUIRE_CHECK(place != places_.end(), "unknown sequence: id=", id);
  Sequence& sequence = *place->second;
  if (sequence.status == SequenceStatus::kRunning) {
    release_blocks(sequence);
    --num_running_;
    num_places_ -= sequence.num_reserved;
  } else if (place->second == first_waiting_) {
    ++first_waiting_;
  }
  if (sequence.status == SequenceStatus::kSwapped) {
    swap_space_.release(sequence.blocks);
    --num_swapped_;
  }
  line_.erase(place->second);
  places_.erase(place);
}

void Scheduler::forget(Sequence& sequence) {
  release_blocks(sequence);
  sequence.num_computed = sequence.num_settled = 0;
  sequence.settles = {0, 0};
  sequence.prompt_owner = sequence.id;
}

void Scheduler::release_blocks(Sequence& sequence) {
  // The deepest first: see PrefixCache.
  while (!sequence.blocks.empty()) cache_.release(sequence.blocks.pop());
  sequence.num_registered = 0;
}

void Scheduler::check_counts() const {
  QUIRE_CHECK(pool_.num_used() + pool_.num_free() + cache_.num_idle() == pool_.num_blocks(),
              "blocks are lost: used=", pool_.num_used(), ", free=", pool_.num_free(), ", idle=", cache_.num_idle());
  const BlockPool& swapped = swap_space_.pool();
  QUIRE_CHECK(swapped.num_used() + swapped.num_free() == swapped.num_blocks(),
              "blocks of the host are lost: used=", swapped.num_used(), ", free=", swapped.num_free());
  QUIRE_CHECK(line_.size() == places_.size() && num_running_ >= 0 && num_waiting() >= 0,
              "sequences are lost: line=", line_.size(), ", known=", places_.size(), ", running=", num_running_);
  QUIRE_CHECK(num_places_ >= num_running_ && num_places_ <= config_.max_num_seqs,
              "places are lost: places=", num_places_, ", running=", num_running_);
}

}  // namespace quire
