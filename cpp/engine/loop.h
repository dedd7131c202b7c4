#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/active_request.h"
#include "engine/queue.h"
#include "engine/ranks.h"
#include "engine/step_rows.h"
#include "quire/engine.h"
#include "sched/scheduler.h"

namespace quire {

/// The engine thread's work: take what callers ask, schedule, compute, hand out, until closed.
///
/// Where the ranks take two steps at a time, the next one is planned and launched before the last one's results are
/// looked at, with placeholders for its tokens; so a device finds its next step enqueued when it ends one. A sequence
/// that turns out to have ended has then been computed once more than needed, which is dropped.
///
/// All scheduler, KV and request state belongs to the thread inside run(); callers meet it at queue() and stats() only.
class Loop {
 public:
  Loop(std::unique_ptr<Ranks> ranks, const SchedulerConfig& scheduler, RequestContext context,
       int64_t max_queued_requests);

  CommandQueue& queue() { return queue_; }
  EngineStats stats() const;

  /// Returns after queue().close() or a failure of the engine; all requests have then had their last output, and the
  /// model's memory has been given back. Never throws.
  void run() noexcept;

 private:
  /// An output on its way to its callback.
  struct Delivery {
    std::shared_ptr<ActiveRequest> request;
    Output output;
  };
  struct Owner {
    ActiveRequest* request = nullptr;
    int32_t index = 0;
  };

  bool serve(Commands& commands);
  void enter(Submission submission);
  void cancel(RequestId id);

  /// Launch the next step and collect the oldest one, if it is time for it.
  void turn();
  /// False if there is nothing to compute before results are there, or the step has failed.
  bool launch();
  void describe(const StepPlan& plan, StepRows& step);
  void expect_tokens(StepRows& step);
  void fork(ActiveRequest& request);
  void collect();
  void fail_step(StepRows& step, const std::string& message);
  void find_owners(StepRows& step);
  std::span<const SequenceId> find_poisoned(StepRows& step, const StepResults& results);
  void use_results(StepRows& step, const StepResults& results);
  void take_token(ActiveRequest& request, int32_t index, const SampleResult& result);
  void queue_outputs(StepRows& step);

  void queue_output(ActiveRequest& request);
  void retire(ActiveRequest& request);
  void publish();
  void deliver();
  void drop_refused();

  void end_all(FinishReason reason, const std::string& error);
  void fail(Commands& commands, const std::string& message) noexcept;

  std::unique_ptr<Ranks> ranks_;
  std::unique_ptr<Scheduler> scheduler_;
  const RequestContext context_;
  CommandQueue queue_;

  std::unordered_map<RequestId, std::shared_ptr<ActiveRequest>> requests_;
  std::unordered_map<SequenceId, Owner> owners_;
  SequenceId next_sequence_ = 0;

  std::array<StepRows, 2> steps_;  ///< those on their way, in rotation; kept for their memory
  uint32_t next_step_ = 0;
  std::vector<SequenceId> poisoned_;
  std::vector<Delivery> deliveries_;
  std::vector<std::shared_ptr<ActiveRequest>> refused_;  ///< whose callback raised
  double now_ = 0.0;
  int failures_in_a_row_ = 0;

  EngineStats counters_;
  mutable std::mutex stats_mutex_;
  EngineStats stats_;
};

}  // namespace quire
