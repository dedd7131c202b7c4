#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "quire/request.h"

namespace quire {

/// Collects the outputs of any number of requests for a thread that would rather wait than be called.
/// Thread safety: all methods.
class OutputQueue : public std::enable_shared_from_this<OutputQueue> {
 public:
  static std::shared_ptr<OutputQueue> create();

  ~OutputQueue();
  OutputQueue(const OutputQueue&) = delete;
  OutputQueue& operator=(const OutputQueue&) = delete;

  /// A callback for Engine::submit that appends to this queue and keeps it alive.
  OutputCallback callback();

  /// Wait until there is something, at most `timeout_seconds` (negative: for ever), and take all of it, oldest first.
  std::vector<Output> take(double timeout_seconds = -1.0);

  /// A file descriptor for poll, epoll and event loops: readable from when there is something until it is taken. It
  /// becomes so once per step of the engine, however many requests the step had outputs for. It belongs to the queue;
  /// nobody else reads, writes or closes it.
  /// Raises: kInternal if the process has no descriptor left.
  int fileno();

 private:
  friend class JointWake;

  OutputQueue() = default;

  void add(Output&& output);
  /// Tell readers that there is something, if there still is.
  void wake();
  /// To be called with the lock held.
  void set_readable(bool readable);

  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<Output> outputs_;
  int event_ = -1;  ///< an eventfd, made when first asked for
  bool readable_ = false;
};

}  // namespace quire
