#include "core/log.h"

#include <memory>
#include <mutex>
#include <utility>

namespace quire {
namespace {

std::mutex sink_mutex;
std::shared_ptr<const LogSink> current_sink;

}  // namespace

void set_log_sink(LogSink sink) {
  auto next = sink ? std::make_shared<const LogSink>(std::move(sink)) : nullptr;
  const std::lock_guard lock(sink_mutex);
  current_sink = std::move(next);
}

void log(LogLevel level, const std::string& message) noexcept {
  try {
    std::shared_ptr<const LogSink> sink;
    {
      const std::lock_guard lock(sink_mutex);
      sink = current_sink;
    }
    if (sink) (*sink)(level, message);
  } catch (...) {
    // A logger that fails must not take a request with it.
  }
}

}  // namespace quire
