#pragma once

#include <string>
#include <string_view>

namespace quire {

/// Text from a file or a caller, fit for a one-line message: in single quotes, valid UTF-8 without control characters
/// (`\n` and `\xNN` stand for them), cut to about 80 bytes with "..." behind.
std::string in_quotes(std::string_view text);

/// Bytes of the UTF-8 character that `text` begins with, or 0 if it begins with none (overlong forms, surrogates and
/// values beyond U+10FFFF are none).
int utf8_length(std::string_view text);

}  // namespace quire
