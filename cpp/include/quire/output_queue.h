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

  /// A callback for Engine::submit that appends to this queue and keeps it alive.
  OutputCallback callback();

  /// Wait until there is something, at most `timeout_seconds` (negative: for ever), and take all of it, oldest first.
  std::vector<Output> take(double timeout_seconds = -1.0);

 private:
  OutputQueue() = default;

  std::mutex mutex_;
  std::condition_variable ready_;
  std::vector<Output> outputs_;
};

}  // namespace quire
