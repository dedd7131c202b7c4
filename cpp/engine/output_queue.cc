#include "quire/output_queue.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/check.h"
#include "engine/joint_wake.h"

namespace quire {
namespace {

thread_local JointWake* current_joint_wake = nullptr;

}  // namespace

JointWake::JointWake() : outer_(std::exchange(current_joint_wake, this)) {}

JointWake::~JointWake() {
  current_joint_wake = outer_;
  for (const auto& queue : queues_) queue->wake();
}

JointWake* JointWake::current() {
  return current_joint_wake;
}

std::shared_ptr<OutputQueue> OutputQueue::create() {
  return std::shared_ptr<OutputQueue>(new OutputQueue());
}

OutputQueue::~OutputQueue() {
  if (event_ >= 0) ::close(event_);
}

OutputCallback OutputQueue::callback() {
  return [queue = shared_from_this()](Output&& output) { queue->add(std::move(output)); };
}

void OutputQueue::add(Output&& output) {
  {
    const std::lock_guard lock(mutex_);
    outputs_.push_back(std::move(output));
    // Whoever is woken for the first one takes them all.
    if (outputs_.size() > 1) return;
  }
  if (JointWake* const joint = JointWake::current(); joint != nullptr) {
    joint->add(shared_from_this());
  } else {
    wake();
  }
}

void OutputQueue::wake() {
  {
    const std::lock_guard lock(mutex_);
    if (outputs_.empty()) return;
    set_readable(true);
  }
  ready_.notify_one();
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
  set_readable(false);
  return std::exchange(outputs_, {});
}

int OutputQueue::fileno() {
  const std::lock_guard lock(mutex_);
  if (event_ < 0) {
    event_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    QUIRE_REQUIRE(event_ >= 0, ErrorKind::kInternal, "[engine] no file descriptor for a queue: ", std::strerror(errno));
    set_readable(!outputs_.empty());
  }
  return event_;
}

void OutputQueue::set_readable(bool readable) {
  if (event_ < 0 || readable == readable_) return;
  // Neither can fail: the counter is 0 before the write and 1 before the read.
  eventfd_t count = 1;
  [[maybe_unused]] const int status = readable ? ::eventfd_write(event_, count) : ::eventfd_read(event_, &count);
  readable_ = readable;
}

}  // namespace quire
