#include "quire/log.h"

#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "pyapi/bindings/bindings.h"

namespace nb = nanobind;

namespace quire::python {
namespace {

/// Lines wait here until Python asks for them, because the engine's thread must never wait for the interpreter lock.
class WaitingLines {
 public:
  void add(LogLevel level, std::string_view message) {
    const std::lock_guard lock(mutex_);
    // A program that never asks must not pay for it with its memory.
    if (lines_.size() < kMostLines) lines_.emplace_back(level, message);
  }

  std::deque<std::pair<LogLevel, std::string>> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(lines_, {});
  }

 private:
  static constexpr size_t kMostLines = 1000;

  std::mutex mutex_;
  std::deque<std::pair<LogLevel, std::string>> lines_;
};

}  // namespace

void bind_log(nb::module_& module) {
  nb::enum_<LogLevel>(module, "LogLevel")
      .value("DEBUG", LogLevel::kDebug)
      .value("INFO", LogLevel::kInfo)
      .value("WARNING", LogLevel::kWarning)
      .value("ERROR", LogLevel::kError);

  const auto waiting = std::make_shared<WaitingLines>();
  set_log_sink([waiting](LogLevel level, std::string_view message) { waiting->add(level, message); });
  module.def(
      "take_log_lines",
      [waiting] {
        nb::list lines;
        for (const auto& [level, message] : waiting->take()) {
          lines.append(nb::make_tuple(level, to_python(message)));
        }
        return lines;
      },
      nb::sig("def take_log_lines() -> list[tuple[LogLevel, str]]"),
      "The library's lines since the last call, oldest first; at most 1000 are kept.");
}

}  // namespace quire::python
