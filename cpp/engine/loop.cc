#include "engine/loop.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/check.h"
#include "core/log.h"
#include "engine/joint_wake.h"

namespace quire {
namespace {

// A step that fails takes its requests with it; an engine whose steps all fail takes in no more of them.
constexpr int kMostFailuresInARow = 3;

/// What to tell the requests of a step that has failed; to be called while `error` is handled. Errors that are not the
/// step's alone are raised again.
std::string failure_of(const std::exception& error) {
  if (const auto* own = dynamic_cast<const Error*>(&error)) {
    if (own->kind() == ErrorKind::kInternal || own->kind() == ErrorKind::kDevice) throw;
  }
  return *error.what() == '\0' ? "[engine] a step failed" : error.what();
}

constexpr const char* kNotFinite =
    "[engine] the logits are not finite: NaN or infinity in the weights, an overflow, or every token masked";

}  // namespace

Loop::Loop(std::unique_ptr<Ranks> ranks, const SchedulerConfig& scheduler, RequestContext context,
           int64_t max_queued_requests)
    : ranks_(std::move(ranks)),
      scheduler_(std::make_unique<Scheduler>(scheduler)),
      context_(std::move(context)),
      queue_(max_queued_requests) {
  counters_.num_blocks = scheduler.num_blocks;
  counters_.num_swap_blocks = scheduler.num_swap_blocks;
  publish();
}

EngineStats Loop::stats() const {
  const std::lock_guard lock(stats_mutex_);
  return stats_;
}

void Loop::run() noexcept {
  Commands commands;
  try {
    while (serve(commands)) {
    }
    end_all(FinishReason::kAbort, "");
  } catch (const std::exception& error) {
    fail(commands, error.what());
  } catch (...) {
    fail(commands, "[engine] an op raised something that is no exception");
  }
  refused_.clear();
  ranks_.reset();
  scheduler_.reset();
}

bool Loop::serve(Commands& commands) {
  const bool busy = scheduler_->has_sequences() || ranks_->num_in_flight() > 0;
  queue_.take(commands, !busy);
  now_ = Engine::now();
  for (Submission& submission : commands.submissions) enter(std::move(submission));
  commands.submissions.clear();
  if (commands.closing) return false;
  for (const RequestId id : commands.cancellations) cancel(id);
  turn();
  publish();
  deliver();
  drop_refused();
  return true;
}

void Loop::enter(Submission submission) {
  const RequestId id = submission.id;
  auto request = std::make_shared<ActiveRequest>(std::move(submission), context_, next_sequence_);
  ActiveRequest& entered = *requests_.emplace(id, std::move(request)).first->second;
  next_sequence_ += entered.num_sequences();
  owners_.emplace(entered.sequence_id(0), Owner{&entered, 0});
  const Request& asked = entered.request();
  // Log-probabilities of the prompt need every row of it computed.
  scheduler_->add(entered.sequence_id(0), asked.prompt_token_ids, !asked.sampling.prompt_logprobs.has_value(),
                  entered.num_sequences(), ranks_->key_set(static_cast<int64_t>(asked.prompt_token_ids.size())));
}

void Loop::cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  ActiveRequest& request = *found->second;
  request.end(FinishReason::kAbort, "", now_);
  queue_output(request);
}

void Loop::turn() {
  const bool launched = launch();
  const int32_t num_in_flight = ranks_->num_in_flight();
  if (num_in_flight > 0 && (!launched || num_in_flight == ranks_->max_in_flight())) collect();
}

bool Loop::launch() {
  if (!scheduler_->has_sequences()) return false;
  const StepPlan& plan = scheduler_->plan();
  if (plan.empty()) {
    QUIRE_CHECK(ranks_->num_in_flight() > 0, "running=", scheduler_->num_running(),
                ", waiting=", scheduler_->num_waiting(), ", swapped=", scheduler_->num_swapped());
    ranks_->move_blocks(plan);
    return false;
  }
  StepRows& step = steps_[next_step_ % 2];
  describe(plan, step);
  ++counters_.num_steps;
  std::string failure;
  try {
    ranks_->launch(plan, step.samples());
  } catch (const std::exception& error) {
    failure = failure_of(error);
  }
  if (failure.empty()) {
    scheduler_->launched();
    expect_tokens(step);
    ++next_step_;
    return true;
  }
  // Who ends with the step before has not needed this one.
  if (ranks_->num_in_flight() > 0) collect();
  fail_step(step, failure);
  return false;
}

void Loop::describe(const StepPlan& plan, StepRows& step) {
  step.clear();
  for (const PlannedSequence& planned : plan.sequences) {
    const Owner owner = owners_.at(planned.id);
    const Sequence& sequence = scheduler_->sequence(planned.id);
    const int32_t end = planned.start + planned.num_tokens;
    owner.request->mark_scheduled(now_, sequence.num_cached);
    counters_.num_prompt_tokens += std::max(0, std::min(end, sequence.num_prompt_tokens) - planned.start);
    step.add(planned, sequence, *owner.request, owner.index);
  }
}

void Loop::expect_tokens(StepRows& step) {
  const std::span<const StepRows::Use> uses = step.uses();
  for (size_t row = 0; row < uses.size(); ++row) {
    const StepRows::Use& use = uses[row];
    if (use.kind != StepRows::Use::Kind::kNextToken) continue;
    const StepEntry& entry = step.entries()[use.entry];
    ActiveRequest& request = *owners_.at(entry.sequence).request;
    const SequenceId id = request.sequence_id(use.index);
    if (id == entry.sequence && entry.num_samples > 1) fork(request);
    // One that ends with this token, whichever it is, is not planned again.
    if (request.ends_at(scheduler_->sequence(id).num_tokens() + 1)) continue;
    scheduler_->append(id, -1 - static_cast<int32_t>(row));
  }
}

void Loop::fork(ActiveRequest& request) {
  for (int32_t index = 1; index < request.num_sequences(); ++index) {
    scheduler_->fork(request.sequence_id(0), request.sequence_id(index));
    owners_.emplace(request.sequence_id(index), Owner{&request, index});
  }
}

void Loop::collect() {
  StepRows& step = steps_[(next_step_ - static_cast<uint32_t>(ranks_->num_in_flight())) % 2];
  StepResults results;
  std::string failure;
  try {
    results = ranks_->collect();
  } catch (const std::exception& error) {
    failure = failure_of(error);
  }
  if (failure.empty()) {
    failures_in_a_row_ = 0;
    now_ = Engine::now();
    use_results(step, results);
    return;
  }
  poisoned_.clear();
  for (const StepEntry& entry : step.entries()) poisoned_.push_back(entry.sequence);
  scheduler_->settle(poisoned_);
  fail_step(step, failure);
}

void Loop::fail_step(StepRows& step, const std::string& message) {
  log(LogLevel::kError, detail::join_message("[engine] a step failed: ", message));
  QUIRE_REQUIRE(++failures_in_a_row_ < kMostFailuresInARow, ErrorKind::kInternal, message);
  find_owners(step);
  for (const StepEntry& entry : step.entries()) {
    if (entry.request != nullptr) entry.request->end(FinishReason::kError, message, now_);
  }
  queue_outputs(step);
}

void Loop::find_owners(StepRows& step) {
  for (StepEntry& entry : step.entries()) {
    const auto owner = owners_.find(entry.sequence);
    entry.request = owner == owners_.end() ? nullptr : owner->second.request;
  }
}

std::span<const SequenceId> Loop::find_poisoned(StepRows& step, const StepResults& results) {
  for (int32_t row = 0; row < results.size(); ++row) {
    if (!results[row].finite) step.entries()[step.uses()[row].entry].poisoned = true;
  }
  poisoned_.clear();
  for (const StepEntry& entry : step.entries()) {
    if (entry.poisoned) poisoned_.push_back(entry.sequence);
  }
  return poisoned_;
}

void Loop::use_results(StepRows& step, const StepResults& results) {
  find_owners(step);
  scheduler_->settle(find_poisoned(step, results));
  for (const StepEntry& entry : step.entries()) {
    if (entry.poisoned && entry.request != nullptr) entry.request->end(FinishReason::kError, kNotFinite, now_);
  }
  for (int32_t row = 0; row < results.size(); ++row) {
    const StepRows::Use& use = step.uses()[row];
    ActiveRequest* const request = step.entries()[use.entry].request;
    if (request == nullptr || request->finished()) continue;
    if (use.kind == StepRows::Use::Kind::kPromptLogprobs) request->add_prompt_logprobs(results[row]);
    if (use.kind == StepRows::Use::Kind::kNextToken) take_token(*request, use.index, results[row]);
  }
  queue_outputs(step);
}

void Loop::take_token(ActiveRequest& request, int32_t index, const SampleResult& result) {
  const SequenceId id = request.sequence_id(index);
  ++counters_.num_generated_tokens;
  if (request.append(index, result, now_)) {
    scheduler_->remove(id);
    owners_.erase(id);
  } else {
    scheduler_->resolve(id, result.token);
  }
}

void Loop::queue_outputs(StepRows& step) {
  // A request that is retired here lives on until its output is delivered.
  for (const StepEntry& entry : step.entries()) {
    if (entry.request != nullptr && entry.request->has_output()) queue_output(*entry.request);
  }
}

void Loop::queue_output(ActiveRequest& request) {
  deliveries_.push_back({requests_.at(request.id()), request.take_output()});
  if (request.finished()) retire(request);
}

void Loop::retire(ActiveRequest& request) {
  for (int32_t index = 0; index < request.num_sequences(); ++index) {
    const SequenceId id = request.sequence_id(index);
    if (owners_.erase(id) > 0) scheduler_->remove(id);
  }
  ++counters_.num_finished_requests;
  queue_.ended(request.id());
  requests_.erase(request.id());
}

void Loop::publish() {
  counters_.num_running = scheduler_->num_running();
  counters_.num_waiting = scheduler_->num_waiting();
  counters_.num_swapped = scheduler_->num_swapped();
  counters_.num_free_blocks = scheduler_->num_free_blocks();
  counters_.num_free_swap_blocks = scheduler_->num_free_swap_blocks();
  counters_.num_preemptions = scheduler_->stats().num_preemptions;
  counters_.num_swap_preemptions = scheduler_->stats().num_swap_preemptions;
  counters_.num_cached_tokens = scheduler_->stats().num_cached_tokens;
  const std::lock_guard lock(stats_mutex_);
  stats_ = counters_;
}

void Loop::deliver() {
  const JointWake wake;
  for (Delivery& delivery : deliveries_) {
    const bool last = delivery.output.finished;
    try {
      delivery.request->callback()(std::move(delivery.output));
    } catch (...) {
      log(LogLevel::kWarning, detail::join_message("[engine] the callback of request ", delivery.request->id(),
                                                   " raised; it is cancelled"));
      if (!last) refused_.push_back(delivery.request);
    }
  }
  deliveries_.clear();
}

void Loop::drop_refused() {
  if (refused_.empty()) return;
  for (const auto& request : refused_) {
    request->end(FinishReason::kAbort, "", now_);
    retire(*request);
  }
  refused_.clear();
  publish();
}

void Loop::end_all(FinishReason reason, const std::string& error) {
  std::vector<std::shared_ptr<ActiveRequest>> open;
  for (const auto& [id, request] : requests_) open.push_back(request);
  std::sort(open.begin(), open.end(), [](const auto& left, const auto& right) { return left->id() < right->id(); });
  // The scheduler may be what has failed, so it is not asked any more.
  for (const auto& request : open) {
    request->end(reason, error, now_);
    if (request->has_output()) deliveries_.push_back({request, request->take_output()});
    queue_.ended(request->id());
    ++counters_.num_finished_requests;
  }
  requests_.clear();
  owners_.clear();
  counters_.num_running = 0;
  counters_.num_waiting = 0;
  counters_.num_swapped = 0;
  counters_.num_free_blocks = counters_.num_blocks;
  counters_.num_free_swap_blocks = counters_.num_swap_blocks;
  {
    const std::lock_guard lock(stats_mutex_);
    stats_ = counters_;
  }
  deliver();
}

void Loop::fail(Commands& commands, const std::string& message) noexcept {
  try {
    log(LogLevel::kError, detail::join_message("[engine] the engine has failed: ", message));
    queue_.fail(message);
    now_ = Engine::now();
    // First those that were being entered, then those that came meanwhile.
    for (int pass = 0; pass < 2; ++pass) {
      for (Submission& submission : commands.submissions) {
        if (!submission.callback) continue;  // entered already
        const RequestId id = submission.id;
        requests_.emplace(id, std::make_shared<ActiveRequest>(std::move(submission), context_, next_sequence_));
      }
      queue_.take(commands, false);
    }
    end_all(FinishReason::kError, message);
  } catch (...) {
    log(LogLevel::kError, "[engine] the engine has failed, and its requests could not be told");
  }
}

}  // namespace quire
