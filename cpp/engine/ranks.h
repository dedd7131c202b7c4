#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/runner.h"

namespace quire {

/// The runners of all ranks of a model as one: every call goes to all of them, each on its own thread, and returns when
/// it has returned from all. One rank alone has no thread and is called as it is.
///
/// Every rank draws the same tokens from the same logits, so none tells them to the others. A rank that raises stops
/// all: the others may wait for it in the middle of a step, so they are told, and their memory is in no state to go on
/// from. Thread safety: one caller at a time.
class Ranks {
 public:
  /// In the order of the ranks; those of several are connected to each other.
  explicit Ranks(std::vector<std::unique_ptr<Runner>> runners);
  explicit Ranks(std::unique_ptr<Runner> runner);
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;
  /// Every runner goes on the thread that has used it.
  ~Ranks();

  // As of a runner; what one of several ranks raises becomes kDevice, or stays kInternal, with its number.
  int32_t key_set(int64_t prompt_length) const { return first().key_set(prompt_length); }
  int32_t max_in_flight() const { return first().max_in_flight(); }
  int32_t num_in_flight() const { return first().num_in_flight(); }
  int64_t num_recorded_graphs() const { return first().num_recorded_graphs(); }
  void launch(const StepPlan& plan, const SampleBatch& samples);
  void move_blocks(const StepPlan& plan);
  /// Raises also: kInternal if the ranks have not chosen the same tokens.
  StepResults collect();

 private:
  /// A rank beside the first one, which the caller's thread runs.
  struct Worker {
    std::unique_ptr<Runner> runner;
    std::thread thread;
  };
  using Work = std::function<void(Runner& runner, size_t rank)>;

  const Runner& first() const { return *first_; }
  void on_all(const Work& work);
  template <typename Done>
  void wait_until(std::condition_variable& condition, Done done);
  void attempt(Runner& runner, size_t rank, const Work& work) noexcept;
  void serve(Worker& worker, size_t rank) noexcept;
  void stop() noexcept;
  [[noreturn]] void raise_failure() const;

  std::unique_ptr<Runner> first_;
  std::vector<Worker> workers_;
  std::vector<StepResults> results_;
  std::chrono::microseconds spin_{0};

  // What the caller and the workers tell each other.
  const Work* work_ = nullptr;  ///< null: the end
  std::atomic<uint32_t> round_{0};
  std::atomic<size_t> num_busy_{0};
  std::mutex mutex_;
  std::condition_variable work_came_, work_done_;
  std::exception_ptr failure_;  ///< the first one that is not the news of another
  size_t failed_rank_ = 0;
  std::atomic<bool> failed_{false};
};

}  // namespace quire
