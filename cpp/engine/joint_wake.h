#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "quire/output_queue.h"

namespace quire {

/// While one lives, queues that are filled on its thread do not wake their readers; its end wakes each of them once.
/// So the outputs of all requests of a step cost a reader one wake-up instead of one for each request.
class JointWake {
 public:
  JointWake();
  ~JointWake();
  JointWake(const JointWake&) = delete;
  JointWake& operator=(const JointWake&) = delete;

  /// The innermost one that lives on this thread; null if there is none.
  static JointWake* current();

  void add(std::shared_ptr<OutputQueue> queue) { queues_.push_back(std::move(queue)); }

 private:
  JointWake* const outer_;
  std::vector<std::shared_ptr<OutputQueue>> queues_;
};

}  // namespace quire
