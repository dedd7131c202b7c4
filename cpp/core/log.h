#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace quire {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Replace the process's one sink; an empty one drops everything, which is the default of a library.
/// Thread safety: may be called at any time; a message under way goes to the old sink.
void set_log_sink(LogSink sink);

/// Hand one line to the sink. Never throws. Prompts and generated text do not belong in it.
void log(LogLevel level, const std::string& message) noexcept;

}  // namespace quire
