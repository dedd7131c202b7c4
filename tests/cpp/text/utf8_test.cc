#include "text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

struct Scanned {
  std::string text;
  Utf8Status status;
  size_t length;
};

TEST(Utf8, scan_tells_characters_from_invalid_and_incomplete_bytes) {
  const std::vector<Scanned> cases = {
      {"a", Utf8Status::kCharacter, 1},
      {"\xc3\xa9x", Utf8Status::kCharacter, 2},
      {"\xe6\x97\xa5", Utf8Status::kCharacter, 3},
      {"\xf0\x9f\x99\x82", Utf8Status::kCharacter, 4},
      {"\xf4\x8f\xbf\xbf", Utf8Status::kCharacter, 4},
      {"\xe6\x97", Utf8Status::kIncomplete, 2},
      {"\xf0", Utf8Status::kIncomplete, 1},
      {"\x80", Utf8Status::kInvalid, 1},
      {"\xc0\xaf", Utf8Status::kInvalid, 1},
      {"\xe0\x80\x80", Utf8Status::kInvalid, 1},
      {"\xed\xa0\x80", Utf8Status::kInvalid, 1},
      {"\xf4\x90\x80\x80", Utf8Status::kInvalid, 1},
      {"\xf5\x80", Utf8Status::kInvalid, 1},
      {"\xe6\x97x", Utf8Status::kInvalid, 2},
      {"\xf0\x9f\x99x", Utf8Status::kInvalid, 3},
  };
  for (const Scanned& expected : cases) {
    const Utf8Scan scan = scan_utf8(expected.text);
    EXPECT_EQ(scan.status, expected.status) << ::testing::PrintToString(expected.text);
    EXPECT_EQ(scan.length, expected.length) << ::testing::PrintToString(expected.text);
  }
}

TEST(Utf8, every_character_is_whole_and_every_surrogate_is_not) {
  for (uint32_t point = 0x800; point < 0x10000; ++point) {
    const std::string text = {static_cast<char>(0xe0 | point >> 12), static_cast<char>(0x80 | (point >> 6 & 0x3f)),
                              static_cast<char>(0x80 | (point & 0x3f))};
    ASSERT_EQ(is_utf8(text), point < 0xd800 || point > 0xdfff) << point;
  }
}

TEST(Utf8, whole_prefix_ends_before_the_first_doubtful_byte) {
  EXPECT_EQ(whole_utf8_prefix(""), 0u);
  EXPECT_EQ(whole_utf8_prefix("aé日"), 6u);
  EXPECT_EQ(whole_utf8_prefix("aé\xe6\x97"), 3u);
  EXPECT_EQ(whole_utf8_prefix("aé\xff日"), 3u);
}

}  // namespace
}  // namespace quire
