#pragma once

#include <string>

#include "quire/log.h"

namespace quire {

/// Hand one line to the sink. Never throws. Prompts and generated text do not belong in it.
void log(LogLevel level, const std::string& message) noexcept;

}  // namespace quire
