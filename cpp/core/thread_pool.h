#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>

namespace quire {

/// Fixed threads that share one piece of work at a time. The calling thread is worker 0.
///
/// Workers spin for a short while between pieces, then sleep, so that decode steps cost no wake-up and an idle engine
/// costs no processor.
/// Thread safety: one caller at a time.
class ThreadPool {
 public:
  static constexpr int kMaxThreads = 1024;

  /// `num_threads` counts the caller; 0: one per physical core that the process may use (host.h).
  /// Raises: kInvalidArgument outside 0..kMaxThreads, kInternal if the system gives no more threads.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const;

  /// Call `body(worker)` once on every worker and wait for all. `body` must not throw.
  /// Raises: kInternal in a forked child of the process that made the pool, where its threads do not exist.
  template <typename Body>
  void run(Body&& body) {
    run_erased(plain_call<Body>(), context_of(body), Attendance::kAll);
  }

  /// Call `body(worker)` on the caller and on those workers that come before the caller is done; wait for these. For
  /// bodies that take pieces of work from a common store until it is empty: on a shared machine, where a worker may not
  /// get a core for milliseconds, nobody waits for one that has taken nothing. Else as run().
  template <typename Body>
  void run_sharing(Body&& body) {
    run_erased(plain_call<Body>(), context_of(body), Attendance::kWhoComes);
  }

  /// Call `body(begin, end, worker)` over [0, count), cut into one contiguous range per worker, none smaller than
  /// `min_per_worker`; runs on the caller alone if that leaves one range. A worker that is early takes a second range
  /// in place of one that is late, so what a body keeps by worker must add up. Else as run().
  template <typename Body>
  void parallel_for(int64_t count, int64_t min_per_worker, Body&& body) {
    if (count <= 0) return;
    const int64_t most = min_per_worker > 0 ? (count + min_per_worker - 1) / min_per_worker : count;
    const int64_t ranges = most < size() ? most : size();
    if (ranges <= 1) {
      body(int64_t{0}, count, 0);
      return;
    }
    std::atomic<int64_t> next{0};
    run_sharing([&](int worker) {
      for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < ranges;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        const int64_t begin = count * i / ranges;
        const int64_t end = count * (i + 1) / ranges;
        if (begin < end) body(begin, end, worker);
      }
    });
  }

 private:
  using Erased = void (*)(void* context, int worker);
  enum class Attendance { kAll, kWhoComes };

  template <typename Body>
  static Erased plain_call() {
    return [](void* context, int worker) { (*static_cast<std::remove_reference_t<Body>*>(context))(worker); };
  }

  template <typename Body>
  static void* context_of(Body& body) {
    return const_cast<void*>(static_cast<const void*>(&body));
  }

  void run_erased(Erased body, void* context, Attendance attendance);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire
