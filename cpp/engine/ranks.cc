#include "engine/ranks.h"

#include <string>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/host.h"
#include "core/spin.h"

namespace quire {
namespace {

/// How long a thread looks for work, or for the others' end, before it sleeps: about as long as lies between the calls
/// of two steps. Waking a sleeper takes up to 200 us on a virtual machine.
constexpr auto kSpin = std::chrono::microseconds(200);
constexpr auto kSpinOversubscribed = std::chrono::microseconds(2);

std::chrono::microseconds spin_of(size_t num_threads) {
  return num_threads <= static_cast<size_t>(physical_core_count()) ? kSpin : kSpinOversubscribed;
}

}  // namespace

Ranks::Ranks(std::unique_ptr<Runner> runner) : first_(std::move(runner)), results_(1) {}

Ranks::Ranks(std::vector<std::unique_ptr<Runner>> runners) : results_(runners.size()), spin_(spin_of(runners.size())) {
  QUIRE_CHECK(!runners.empty(), "no ranks");
  first_ = std::move(runners.front());
  workers_.resize(runners.size() - 1);
  for (size_t i = 0; i < workers_.size(); ++i) workers_[i].runner = std::move(runners[i + 1]);
  try {
    for (size_t i = 0; i < workers_.size(); ++i) {
      workers_[i].thread = std::thread([this, i] { serve(workers_[i], i + 1); });
    }
  } catch (const std::system_error& error) {
    stop();
    throw Error(
        ErrorKind::kInternal,
        detail::join_message("[ranks] the system gives no more threads: ranks=", runners.size(), ": ", error.what()));
  }
}

Ranks::~Ranks() {
  stop();
}

void Ranks::stop() noexcept {
  if (workers_.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    work_ = nullptr;
    round_.fetch_add(1);
  }
  work_came_.notify_all();
  // Beside the others, not ahead of them: the end of a rank may wait for work that needs all.
  first_.reset();
  for (Worker& worker : workers_) {
    if (worker.thread.joinable()) worker.thread.join();
  }
}

void Ranks::launch(const StepPlan& plan, const SampleBatch& samples) {
  if (workers_.empty()) return first_->launch(plan, samples);
  // All ranks need the same room. None is in a step meanwhile: what is enqueued ends by itself.
  if (!first_->has_room(plan, samples)) on_all([&](Runner& runner, size_t) { runner.make_room(plan, samples); });
  on_all([&](Runner& runner, size_t) { runner.launch(plan, samples); });
}

void Ranks::move_blocks(const StepPlan& plan) {
  if (workers_.empty()) return first_->move_blocks(plan);
  on_all([&](Runner& runner, size_t) { runner.move_blocks(plan); });
}

StepResults Ranks::collect() {
  if (workers_.empty()) return first_->collect();
  on_all([&](Runner& runner, size_t rank) { results_[rank] = runner.collect(); });
  for (size_t rank = 1; rank < results_.size(); ++rank) {
    QUIRE_REQUIRE(results_[rank].same_tokens(results_.front()), ErrorKind::kInternal, "[ranks] rank ", rank,
                  " has chosen other tokens than rank 0: the ranks' devices do not compute alike");
  }
  return results_.front();
}

void Ranks::on_all(const Work& work) {
  if (failed_.load()) raise_failure();
  {
    const std::lock_guard lock(mutex_);
    work_ = &work;
    num_busy_.store(workers_.size());
    round_.fetch_add(1);
  }
  work_came_.notify_all();
  attempt(*first_, 0, work);
  wait_until(work_done_, [&] { return num_busy_.load() == 0; });
  if (failed_.load()) raise_failure();
}

/// Sleep, after a while, until `done`, which changes under the lock.
template <typename Done>
void Ranks::wait_until(std::condition_variable& condition, Done done) {
  if (spin_until(spin_, done)) return;
  std::unique_lock lock(mutex_);
  condition.wait(lock, done);
}

void Ranks::attempt(Runner& runner, size_t rank, const Work& work) noexcept {
  try {
    work(runner, rank);
  } catch (...) {
    {
      const std::lock_guard lock(mutex_);
      // The first to raise is the one that has failed: what the others raise is the news of it.
      if (failure_ == nullptr) {
        failure_ = std::current_exception();
        failed_rank_ = rank;
      }
    }
    failed_.store(true);
    runner.abort();
  }
}

void Ranks::serve(Worker& worker, size_t rank) noexcept {
  uint32_t seen = 0;
  for (;;) {
    wait_until(work_came_, [&] { return round_.load() != seen; });
    seen = round_.load();
    const Work* work = nullptr;
    {
      const std::lock_guard lock(mutex_);
      work = work_;
    }
    if (work == nullptr) break;
    attempt(*worker.runner, rank, *work);
    const std::lock_guard lock(mutex_);
    if (num_busy_.fetch_sub(1) == 1) work_done_.notify_one();
  }
  worker.runner.reset();
}

void Ranks::raise_failure() const {
  std::string reason;
  ErrorKind kind = ErrorKind::kDevice;
  try {
    std::rethrow_exception(failure_);
  } catch (const Error& error) {
    reason = error.what();
    if (error.kind() == ErrorKind::kInternal) kind = ErrorKind::kInternal;
  } catch (const std::exception& error) {
    reason = error.what();
  } catch (...) {
    reason = "an op raised something that is no exception";
  }
  throw Error(kind,
              detail::join_message("[ranks] rank ", failed_rank_, " of ", results_.size(), " has failed: ", reason));
}

}  // namespace quire
