#include "core/thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/host.h"
#include "core/spin.h"

namespace quire {
namespace {

/// How long a worker without work spins before it sleeps. A decode step's ops follow each other within a few
/// microseconds; what lies between two steps (sampling, scheduling) should stay below this too.
constexpr auto kWorkerSpin = std::chrono::microseconds(100);
/// How long the caller spins for the last worker. Longer, because that one is at work, or on its way out of its sleep,
/// which takes up to 200 us on a virtual machine.
constexpr auto kCallerSpin = std::chrono::microseconds(1000);
/// Both, with more threads than cores: a spinning thread may keep the one it waits for from running.
constexpr auto kSpinOversubscribed = std::chrono::microseconds(2);

/// Raised in every child of fork(), where the workers of pools made before do not exist.
std::atomic<int> fork_count{0};

void count_forks() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1, std::memory_order_relaxed); });
  QUIRE_CHECK(registered == 0, "pthread_atfork failed");
}

}  // namespace

// All that workers and caller tell each other about a job is one word:
//
//   63..32 generation | 31 closed | 30..16 workers that entered | 15..0 workers that left
//
// The caller writes body and context, then opens the next generation; a worker that still finds it open enters, which
// gives it body and context, and leaves when it is done, which gives the caller its results. The caller closes the
// generation when all have left, or (Attendance::kWhoComes) when it is done itself, and returns when as many have left
// as have entered.
//
// Sleeping: a thread announces that it sleeps (sleepers, caller_sleeps), then looks once more at the word; the other
// side changes the word first, then looks for sleepers. In the one total order of these sequentially consistent
// operations, one of the two sees the other.
struct ThreadPool::State {
  static constexpr uint64_t kLeft = 1;
  static constexpr uint64_t kEntered = 1 << 16;
  static constexpr uint64_t kClosed = uint64_t{1} << 31;

  static constexpr uint32_t generation(uint64_t word) { return static_cast<uint32_t>(word >> 32); }
  static constexpr int entered(uint64_t word) { return static_cast<int>(word / kEntered % (1 << 15)); }
  static constexpr int left(uint64_t word) { return static_cast<int>(word % kEntered); }

  int size = 1;
  int forks_at_start = 0;
  std::chrono::nanoseconds worker_spin = kWorkerSpin;
  std::chrono::nanoseconds caller_spin = kCallerSpin;
  std::vector<std::thread> threads;

  Erased body = nullptr;
  void* context = nullptr;

  alignas(64) std::atomic<uint64_t> job{kClosed};
  alignas(64) std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};

  std::mutex mutex;
  std::condition_variable work_came;
  std::condition_variable work_done;

  void open_job(Erased new_body, void* new_context) {
    body = new_body;
    context = new_context;
    job.store(uint64_t{generation(job.load()) + 1} << 32);
    if (sleepers.load() == 0) return;
    pass_through_lock();
    work_came.notify_all();
  }

  void close_job(Attendance attendance) {
    if (attendance == Attendance::kAll) {
      wait_for_workers([this] { return left(job.load()) == size - 1; });
      job.fetch_or(kClosed);
    } else {
      job.fetch_or(kClosed);
      wait_for_workers([this] {
        const uint64_t word = job.load();
        return left(word) == entered(word);
      });
    }
  }

  template <typename Done>
  void wait_for_workers(Done done) {
    if (spin_until(caller_spin, done)) return;
    std::unique_lock lock(mutex);
    caller_sleeps.store(true);
    work_done.wait(lock, done);
    caller_sleeps.store(false);
  }

  void work(int worker) {
    uint32_t seen = 0;
    while (true) {
      wait_for_job(seen);
      if (stop.load()) return;
      uint64_t word = job.load();
      while ((word & kClosed) == 0 && !job.compare_exchange_weak(word, word + kEntered)) {
      }
      seen = generation(word);
      if ((word & kClosed) != 0) continue;
      body(context, worker);
      leave_job();
    }
  }

  void wait_for_job(uint32_t seen) {
    const auto changed = [&] { return generation(job.load()) != seen; };
    if (spin_until(worker_spin, changed)) return;
    std::unique_lock lock(mutex);
    sleepers.fetch_add(1);
    work_came.wait(lock, changed);
    sleepers.fetch_sub(1);
  }

  void leave_job() {
    job.fetch_add(kLeft);
    if (!caller_sleeps.load()) return;
    pass_through_lock();
    work_done.notify_one();
  }

  /// Whoever has looked at the word for the last time before it sleeps holds the lock until it sleeps.
  void pass_through_lock() { const std::lock_guard lock(mutex); }

  void stop_threads() {
    stop.store(true);
    open_job(nullptr, nullptr);
    for (std::thread& thread : threads) thread.join();
    threads.clear();
  }
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>()) {
  QUIRE_REQUIRE(num_threads >= 0 && num_threads <= kMaxThreads, ErrorKind::kInvalidArgument,
                "[ThreadPool] bad number of threads: num_threads=", num_threads, ", expected=0..", kMaxThreads);
  count_forks();
  const int cores = physical_core_count();
  State& state = *state_;
  state.size = num_threads > 0 ? num_threads : cores;
  state.forks_at_start = fork_count.load(std::memory_order_relaxed);
  if (state.size > cores) state.worker_spin = state.caller_spin = kSpinOversubscribed;
  state.threads.reserve(static_cast<size_t>(state.size - 1));
  try {
    for (int worker = 1; worker < state.size; ++worker) {
      state.threads.emplace_back([&state, worker] { state.work(worker); });
    }
  } catch (const std::system_error& error) {
    const size_t started = state.threads.size();
    state.stop_threads();
    throw Error(ErrorKind::kInternal, detail::join_message("[ThreadPool] the system gives no more threads: started=",
                                                           started, ", wanted=", num_threads, ": ", error.what()));
  }
}

ThreadPool::~ThreadPool() {
  if (state_->forks_at_start != fork_count.load(std::memory_order_relaxed)) {
    // A forked child: there are no threads to join, and the locks may be held by nobody that exists.
    static_cast<void>(state_.release());
    return;
  }
  state_->stop_threads();
}

int ThreadPool::size() const {
  return state_->size;
}

void ThreadPool::run_erased(Erased body, void* context, Attendance attendance) {
  State& state = *state_;
  QUIRE_CHECK(state.forks_at_start == fork_count.load(std::memory_order_relaxed),
              "a thread pool does not survive fork(): create the engine in the child");
  if (state.size == 1) {
    body(context, 0);
    return;
  }
  state.open_job(body, context);
  body(context, 0);
  state.close_job(attendance);
}

}  // namespace quire
