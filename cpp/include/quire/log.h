#pragma once

#include <functional>
#include <string_view>

namespace quire {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Receives the library's lines. Called from any thread, the engine's included: it must be quick, and must not call the
/// library. An exception that leaves it is dropped.
using LogSink = std::function<void(LogLevel level, std::string_view message)>;

/// Replace the process's one sink; an empty one drops everything, which is the default of a library.
/// Thread safety: may be called at any time; a message under way goes to the old sink.
void set_log_sink(LogSink sink);

}  // namespace quire
