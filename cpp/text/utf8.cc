#include "text/utf8.h"

namespace quire {
namespace {

/// Range of the second byte: it excludes overlong forms, surrogates and what lies beyond U+10FFFF.
struct LeadByte {
  size_t length;  ///< of the character; 0: no character begins so
  unsigned char second_min = 0x80;
  unsigned char second_max = 0xbf;
};

LeadByte lead_byte(unsigned char byte) {
  if (byte < 0x80) return {1};
  if (byte < 0xc2 || byte > 0xf4) return {0};
  if (byte < 0xe0) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte < 0xf0) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  return {4};
}

}  // namespace

Utf8Scan scan_utf8(std::string_view text) {
  const LeadByte lead = lead_byte(static_cast<unsigned char>(text[0]));
  if (lead.length == 0) return {Utf8Status::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == text.size()) return {Utf8Status::kIncomplete, i};
    const auto byte = static_cast<unsigned char>(text[i]);
    const unsigned char least = i == 1 ? lead.second_min : 0x80;
    const unsigned char greatest = i == 1 ? lead.second_max : 0xbf;
    if (byte < least || byte > greatest) return {Utf8Status::kInvalid, i};
  }
  return {Utf8Status::kCharacter, lead.length};
}

bool is_utf8(std::string_view text) {
  return whole_utf8_prefix(text) == text.size();
}

size_t whole_utf8_prefix(std::string_view text) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Scan scan = scan_utf8(text.substr(length));
    if (scan.status != Utf8Status::kCharacter) break;
    length += scan.length;
  }
  return length;
}

}  // namespace quire
