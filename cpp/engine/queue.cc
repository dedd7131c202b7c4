#include "engine/queue.h"

#include <utility>

#include "core/check.h"
#include "quire/engine.h"

namespace quire {

RequestId CommandQueue::submit(Request request, OutputCallback callback) {
  Submission submission{0, std::move(request), std::move(callback), Engine::now()};
  const std::lock_guard lock(mutex_);
  QUIRE_REQUIRE(!failure_, ErrorKind::kInternal, *failure_);
  QUIRE_REQUIRE(!commands_.closing, ErrorKind::kInvalidArgument, "[engine] the engine is closed");
  QUIRE_REQUIRE(static_cast<int64_t>(live_.size()) < capacity_, ErrorKind::kInvalidArgument,
                "[engine] too many requests wait or run: max_queued_requests=", capacity_,
                ": submit again when one has ended");
  const RequestId id = next_id_;
  submission.id = id;
  const auto entry = live_.insert(id).first;
  try {
    commands_.submissions.push_back(std::move(submission));
  } catch (...) {
    live_.erase(entry);
    throw;
  }
  ++next_id_;
  filled_.notify_one();
  return id;
}

bool CommandQueue::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  if (!live_.contains(id)) return false;
  commands_.cancellations.push_back(id);
  filled_.notify_one();
  return true;
}

void CommandQueue::close() {
  const std::lock_guard lock(mutex_);
  commands_.closing = true;
  filled_.notify_one();
}

void CommandQueue::fail(const std::string& message) {
  const std::lock_guard lock(mutex_);
  failure_ = message;
}

std::optional<std::string> CommandQueue::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void CommandQueue::take(Commands& commands, bool wait) {
  commands.submissions.clear();
  commands.cancellations.clear();
  std::unique_lock lock(mutex_);
  if (wait) {
    filled_.wait(lock, [this] {
      return commands_.closing || !commands_.submissions.empty() || !commands_.cancellations.empty();
    });
  }
  commands.submissions.swap(commands_.submissions);
  commands.cancellations.swap(commands_.cancellations);
  commands.closing = commands_.closing;
}

void CommandQueue::ended(RequestId id) {
  const std::lock_guard lock(mutex_);
  live_.erase(id);
}

}  // namespace quire
