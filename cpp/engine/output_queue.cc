#include "quire/output_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace quire {

std::shared_ptr<OutputQueue> OutputQueue::create() {
  return std::shared_ptr<OutputQueue>(new OutputQueue());
}

OutputCallback OutputQueue::callback() {
  return [queue = shared_from_this()](Output&& output) {
    bool was_empty = false;
    {
      const std::lock_guard lock(queue->mutex_);
      was_empty = queue->outputs_.empty();
      queue->outputs_.push_back(std::move(output));
    }
    // Whoever was woken for the first one takes them all.
    if (was_empty) queue->ready_.notify_one();
  };
}

std::vector<Output> OutputQueue::take(double timeout_seconds) {
  std::unique_lock lock(mutex_);
  const auto filled = [this] { return !outputs_.empty(); };
  if (timeout_seconds >= 0.0) {
    // A clock counts 292 years of nanoseconds; nobody waits for one.
    constexpr double kLongestSeconds = 1e9;
    ready_.wait_for(lock, std::chrono::duration<double>(std::min(timeout_seconds, kLongestSeconds)), filled);
  } else {
    ready_.wait(lock, filled);
  }
  return std::exchange(outputs_, {});
}

}  // namespace quire
