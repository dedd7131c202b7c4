#include "core/json.h"

#include <chrono>
#include <string>

#include "core/mutation.h"
#include "gtest/gtest.h"
#include "quire/error.h"

namespace quire {
namespace {

Json parse(std::string_view text) {
  return parse_json(text, "test.json");
}

/// The message of the error that a text is refused with; empty if it is taken.
std::string refusal(std::string_view text) {
  try {
    parse(text);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInvalidArgument);
    return error.what();
  }
  return "";
}

TEST(Json, tells_integers_from_floating_point) {
  EXPECT_EQ(*parse("-0").as_int(), 0);
  EXPECT_EQ(*parse(" 42 ").as_int(), 42);
  EXPECT_EQ(*parse("9223372036854775807").as_int(), INT64_MAX);
  EXPECT_EQ(*parse("-9223372036854775808").as_int(), INT64_MIN);
  EXPECT_EQ(*parse("9223372036854775808").as_double(), 0x1p63);
  EXPECT_EQ(*parse("1000000000000000019884624838656").as_double(), 1e30);
  EXPECT_EQ(*parse("1.0").as_double(), 1.0);
  EXPECT_EQ(*parse("-2.5e-3").as_double(), -2.5e-3);
  EXPECT_EQ(*parse("1E2").as_double(), 100.0);
  EXPECT_EQ(parse("1.0").as_int(), nullptr);
  EXPECT_EQ(parse("7").number(), 7.0);
  EXPECT_EQ(parse("\"7\"").number(), std::nullopt);
}

TEST(Json, reads_every_type_and_keeps_the_order_of_members) {
  const Json json = parse("{\"z\": null, \"a\": [true, false, {}], \"m\": \"text\", \"n\": [ ]}\n");
  ASSERT_NE(json.as_object(), nullptr);
  EXPECT_EQ(json.as_object()->at(0).first, "z");
  EXPECT_TRUE(json.find("z")->is_null());
  EXPECT_EQ(json.find("a")->as_array()->size(), 3u);
  EXPECT_TRUE(*json.find("a")->as_array()->at(0).as_bool());
  EXPECT_EQ(*json.find("m")->as_string(), "text");
  EXPECT_TRUE(json.find("n")->as_array()->empty());
  EXPECT_EQ(json.find("absent"), nullptr);
  EXPECT_EQ(json.find("m")->find("m"), nullptr);
  EXPECT_EQ(json.type_name(), "object");
  EXPECT_EQ(json.find("z")->type_name(), "null");
}

TEST(Json, decodes_escapes_and_surrogate_pairs) {
  EXPECT_EQ(*parse(R"("\"\\\/\b\f\n\r\t")").as_string(), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(*parse(R"("\u0041\u00e9\u20AC\ud83d\ude00")").as_string(), "A\u00e9\u20ac\U0001F600");
  EXPECT_EQ(*parse(R"("\u0000")").as_string(), std::string(1, '\0'));
  EXPECT_EQ(*parse("\"\u00e9\u20ac\U0001F600\x7f\"").as_string(), "\u00e9\u20ac\U0001F600\x7f");
}

TEST(Json, names_line_and_column_of_an_error) {
  EXPECT_EQ(refusal("{\n  \"a\": 1,\n  \"b\" 2\n}"), "[test.json:3:7] not valid JSON: expected ':'");
  EXPECT_EQ(refusal("[1, 2"), "[test.json:1:6] not valid JSON: the text ends too early");
  EXPECT_EQ(refusal("{\"a\": 1,\n\"b\": 2, \"a\": 3}"), "[test.json:2:9] not valid JSON: duplicate key 'a'");
}

TEST(Json, refuses_what_is_not_strict_json) {
  const std::string_view refused[] = {"",
                                      " ",
                                      "nul",
                                      "True",
                                      "NaN",
                                      "Infinity",
                                      "-Infinity",
                                      "-",
                                      "+1",
                                      ".5",
                                      "1.",
                                      "1e",
                                      "1e+",
                                      "01",
                                      "-01",
                                      "0x10",
                                      "1_000",
                                      "1e999",
                                      "[",
                                      "]",
                                      "[1,]",
                                      "[,1]",
                                      "[1 2]",
                                      "{",
                                      "{\"a\"}",
                                      "{\"a\":}",
                                      "{\"a\":1,}",
                                      "{a:1}",
                                      "{'a':1}",
                                      "{1:2}",
                                      "[1]]",
                                      "1 2",
                                      "// x\n1",
                                      "\"",
                                      "\"\\",
                                      "\"\\\"",
                                      "\"\\x41\"",
                                      "\"\\u12\"",
                                      "\"\\u12g4\"",
                                      "\"\\u-123\"",
                                      "\"\\ud800\"",
                                      "\"\\ud800\\n\"",
                                      "\"\\ud800\\u0041\"",
                                      "\"\\udc00\"",
                                      "\"\n\"",
                                      "\"\t\"",
                                      "\"\x01\"",
                                      "\"\x80\"",
                                      "\"\xc3\"",
                                      "\"\xc0\xaf\"",
                                      "\"\xed\xa0\x80\"",
                                      "\"\xf4\x90\x80\x80\"",
                                      "\"\xff\"",
                                      "\xef\xbb\xbf{}",
                                      "\xc2\xa0{}",
                                      "{\"a\":1,\"a\":1}",
                                      "{\"\\u0061\":1,\"a\":2}"};
  for (const std::string_view text : refused) {
    const std::string message = refusal(text);
    EXPECT_NE(message, "") << text;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
  EXPECT_NE(refusal(std::string_view("1\0", 2)), "");
}

TEST(Json, limits_the_depth_of_nesting) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(refusal(nested(64)), "");
  EXPECT_EQ(refusal(nested(65)), "[test.json:1:65] not valid JSON: nested too deeply");
  EXPECT_NE(refusal(std::string(1'000'000, '[')), "");
  EXPECT_THROW(parse_json("[[1]]", "x", {.max_depth = 1}), Error);
}

TEST(Json, keeps_messages_on_one_line_of_valid_text) {
  EXPECT_NE(refusal("{\"a\\nb\\u0000\":1,\"a\\nb\\u0000\":1}").find("duplicate key 'a\\nb\\x00'"), std::string::npos);
  const std::string key(1000, 'k');
  EXPECT_LT(refusal("{\"" + key + "\":1,\"" + key + "\":1}").size(), 200u);
}

// A quadratic search for duplicates would take minutes.
TEST(Json, reads_a_vocabulary_of_200_000_entries_in_linear_time) {
  std::string text = "{";
  for (int i = 0; i < 200'000; ++i) text += "\"token" + std::to_string(i) + "\": " + std::to_string(i) + ", ";
  text += "\"last\": 1";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(parse(text + "}").as_object()->size(), 200'001u);
  EXPECT_NE(refusal(text + ", \"token77\": 1}").find("duplicate key 'token77'"), std::string::npos);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

int one_input(const uint8_t* data, size_t size) {
  expect_read_or_refused([&] { parse_json({reinterpret_cast<const char*>(data), size}, "input"); });
  return 0;
}

TEST(Json, survives_mutations) {
  const std::vector<std::string> seeds = {
      R"({"hidden_size": 64, "rope_scaling": {"type": "linear", "factor": 4.0}, "list": [1, -2.5e3, null, true]})",
      R"({"a": "\u00e9\ud83d\ude00\n", "b": [[[]], {"c": {"d": {}}}], "": 0, "big": 123456789012345678901234567890})",
      "[\"caf\u00e9\", \"\u65e5\u672c\", \"\U0001F600\", false]"};
  const std::vector<std::string> tokens = {
      "{",        "}",    "[",       "]",      "\"",    ":",      ",",
      "\\u",      "\\",   "\\ud83d", "1e",     "-",     "null",   "true",
      "\xff\xfe", "\xc3", "\"a\":",  "\"b\":", "1e308", "[[[[[[", "99999999999999999999",
      "\n"};
  run_mutations(Mutator(seeds, tokens, 1), 50'000, one_input);
}

}  // namespace
}  // namespace quire
