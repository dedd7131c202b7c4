#pragma once

#include <cstddef>
#include <string_view>

namespace quire {

/// U+FFFD, which stands for bytes that are no text.
inline constexpr std::string_view kReplacementCharacter = "\xef\xbf\xbd";

enum class Utf8Status {
  kCharacter,   ///< a whole character
  kInvalid,     ///< bytes that no byte behind them can make a character
  kIncomplete,  ///< the text ends inside a character
};

struct Utf8Scan {
  Utf8Status status;
  /// Bytes of the character; for kInvalid the longest run that could have begun one ("maximal subpart", Unicode
  /// standard, section 3.9), at least 1; for kIncomplete all bytes that are left.
  size_t length;
};

/// What `text`, which must not be empty, begins with.
Utf8Scan scan_utf8(std::string_view text);

bool is_utf8(std::string_view text);

/// Bytes at the beginning of `text` that are whole characters.
size_t whole_utf8_prefix(std::string_view text);

}  // namespace quire
