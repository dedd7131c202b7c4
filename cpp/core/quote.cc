#include "core/quote.h"

#include <cstddef>

namespace quire {
namespace {

constexpr size_t kMostBytes = 80;

bool is_continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xc0u) == 0x80u;
}

std::string escaped(char byte) {
  constexpr std::string_view digits = "0123456789abcdef";
  if (byte == '\n') return "\\n";
  const unsigned value = static_cast<unsigned char>(byte);
  return {'\\', 'x', digits[value >> 4], digits[value & 15u]};
}

}  // namespace

int utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned first = static_cast<unsigned char>(text[0]);
  if (first < 0x80) return 1;
  const int length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < static_cast<size_t>(length)) return 0;
  for (int i = 1; i < length; ++i) {
    if (!is_continuation(text[i])) return 0;
  }
  // The second byte decides about overlong forms (E0, F0), surrogates (ED) and what lies beyond U+10FFFF (F4).
  const unsigned second = static_cast<unsigned char>(text[1]);
  const bool refused = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
                       (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
  return refused ? 0 : length;
}

std::string in_quotes(std::string_view text) {
  std::string result = "'";
  while (!text.empty()) {
    if (result.size() > kMostBytes) return result + "'...";
    const int length = utf8_length(text);
    const bool control = length <= 1 && (length == 0 || static_cast<unsigned char>(text[0]) < 0x20 || text[0] == 0x7f);
    result += control ? escaped(text[0]) : std::string(text.substr(0, length));
    text.remove_prefix(control ? 1 : length);
  }
  return result + "'";
}

}  // namespace quire
