#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/active_request.h"
#include "engine/queue.h"
#include "engine/step_rows.h"
#include "quire/engine.h"
#include "runtime/runner.h"
#include "sched/scheduler.h"

namespace quire {

/// The engine thread's work: take what callers ask, schedule, compute, hand out, until closed.
///
/// All scheduler, KV and request state belongs to the thread inside run(); callers meet it at queue() and stats() only.
class Loop {
 public:
  Loop(std::unique_ptr<Runner> runner, const SchedulerConfig& scheduler, RequestContext context,
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

  void step();
  void collect(const StepPlan& plan);
  bool compute(const StepPlan& plan);
  void fail_step(const std::string& message);
  std::span<const SequenceId> find_poisoned();
  void use_results();
  void fork(ActiveRequest& request);
  void take_token(ActiveRequest& request, int32_t index, const SampleResult& result);

  void queue_output(ActiveRequest& request);
  void retire(ActiveRequest& request);
  void publish();
  void deliver();
  void drop_refused();

  void end_all(FinishReason reason, const std::string& error);
  void fail(Commands& commands, const std::string& message) noexcept;

  std::unique_ptr<Runner> runner_;
  std::unique_ptr<Scheduler> scheduler_;
  const RequestContext context_;
  CommandQueue queue_;

  std::unordered_map<RequestId, std::shared_ptr<ActiveRequest>> requests_;
  std::unordered_map<SequenceId, Owner> owners_;
  SequenceId next_sequence_ = 0;

  // Of the current step; kept for their memory.
  std::vector<StepEntry> entries_;
  StepRows rows_;
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
