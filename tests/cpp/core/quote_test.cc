#include "core/quote.h"

#include <string>

#include "gtest/gtest.h"

namespace quire {
namespace {

TEST(InQuotes, escapes_what_does_not_belong_in_a_line) {
  EXPECT_EQ(in_quotes("plain"), "'plain'");
  EXPECT_EQ(in_quotes("a\nb\tc\x7f"), "'a\\nb\\x09c\\x7f'");
  EXPECT_EQ(in_quotes("caf\u00e9 \U0001F600"), "'caf\u00e9 \U0001F600'");
  EXPECT_EQ(in_quotes("\xff\xc3"), "'\\xff\\xc3'");
}

TEST(InQuotes, cuts_long_text_between_characters) {
  std::string text;
  for (int i = 0; i < 100; ++i) text += "\u20ac";
  const std::string result = in_quotes(text);
  EXPECT_LT(result.size(), 100u);
  EXPECT_TRUE(result.ends_with("\u20ac'..."));
}

TEST(Utf8Length, knows_the_shortest_forms_only) {
  EXPECT_EQ(utf8_length(""), 0);
  EXPECT_EQ(utf8_length("a\u00e9"), 1);
  EXPECT_EQ(utf8_length("\u00e9"), 2);
  EXPECT_EQ(utf8_length("\u20ac"), 3);
  EXPECT_EQ(utf8_length("\U0001F600"), 4);
  EXPECT_EQ(utf8_length("\xf4\x8f\xbf\xbf"), 4);
  for (const char* broken : {"\x80", "\xc1\x81", "\xc3", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xe2\x82", "\xf0\x8f\xbf\xbf",
                             "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xc3z"}) {
    EXPECT_EQ(utf8_length(broken), 0) << testing::PrintToString(broken);
  }
}

}  // namespace
}  // namespace quire
