#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "quire/request.h"

namespace quire {

/// A request on its way to the engine thread.
struct Submission {
  RequestId id = 0;
  Request request;
  OutputCallback callback;
  double arrival_time = 0.0;
};

/// What callers have asked for since the engine thread last looked, in order of arrival.
struct Commands {
  std::vector<Submission> submissions;
  std::vector<RequestId> cancellations;
  bool closing = false;
};

/// Bounded handoff between callers and the engine thread, and the only state that they share beside the counters.
/// Thread safety: all methods; take() and ended() are called by the engine thread alone.
class CommandQueue {
 public:
  /// `capacity`: requests that may wait or run at a time.
  explicit CommandQueue(int64_t capacity) : capacity_(capacity) {}

  /// Give a request its number and hand it over.
  /// Raises: kInvalidArgument if full or closed, kInternal after fail().
  RequestId submit(Request request, OutputCallback callback);

  /// Returns false if the request is unknown or has ended.
  bool cancel(RequestId id);

  /// Refuse new requests and wake the engine thread to end.
  void close();

  /// Refuse new requests with kInternal and this message.
  void fail(const std::string& message);
  std::optional<std::string> failure() const;

  /// Swap out what has come. `wait`: sleep until there is something.
  void take(Commands& commands, bool wait);

  /// The request's last output is about to be handed out: it can be cancelled no more and makes room for another.
  void ended(RequestId id);

 private:
  const int64_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable filled_;
  Commands commands_;
  std::unordered_set<RequestId> live_;
  RequestId next_id_ = 0;
  std::optional<std::string> failure_;
};

}  // namespace quire
