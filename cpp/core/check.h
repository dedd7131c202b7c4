#pragma once

#include <sstream>
#include <string>

#include "quire/error.h"

namespace quire::detail {

template <typename... Parts>
std::string join_message(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

[[noreturn]] void throw_check_failure(const char* condition, const char* file, int line, const std::string& message);

}  // namespace quire::detail

/// The caller or a file is wrong: throw Error(kind) with the parts joined into one line.
#define QUIRE_REQUIRE(condition, kind, ...)                                     \
  do {                                                                          \
    if (!(condition)) [[unlikely]] {                                            \
      throw ::quire::Error((kind), ::quire::detail::join_message(__VA_ARGS__)); \
    }                                                                           \
  } while (false)

/// We are wrong: throw Error(kInternal) naming the condition and the source line. On in every build.
#define QUIRE_CHECK(condition, ...)                                                     \
  do {                                                                                  \
    if (!(condition)) [[unlikely]] {                                                    \
      ::quire::detail::throw_check_failure(#condition, __FILE__, __LINE__,              \
                                           ::quire::detail::join_message(__VA_ARGS__)); \
    }                                                                                   \
  } while (false)
