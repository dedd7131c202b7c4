#pragma once

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
    using Plain = std::remove_reference_t<Body>;
    run_erased([](void* context, int worker) { (*static_cast<Plain*>(context))(worker); },
               const_cast<void*>(static_cast<const void*>(&body)));
  }

  /// Call `body(begin, end, worker)` over [0, count), cut into one contiguous range per worker, none smaller than
  /// `min_per_worker`; runs on the caller alone if that leaves one range. `body` must not throw.
  template <typename Body>
  void parallel_for(int64_t count, int64_t min_per_worker, Body&& body) {
    if (count <= 0) return;
    const int64_t most = min_per_worker > 0 ? (count + min_per_worker - 1) / min_per_worker : count;
    const int64_t workers = most < size() ? most : size();
    if (workers <= 1) {
      body(int64_t{0}, count, 0);
      return;
    }
    run([&](int worker) {
      if (worker >= workers) return;
      const int64_t begin = count * worker / workers;
      const int64_t end = count * (worker + 1) / workers;
      if (begin < end) body(begin, end, worker);
    });
  }

 private:
  using Erased = void (*)(void* context, int worker);
  void run_erased(Erased body, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quire
