#include "spec/hf_config.h"

#include <string>

#include "core/refusal.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

HfConfig config_of(std::string_view text) {
  return HfConfig(parse_json(text, "config.json"), "config.json");
}

TEST(HfConfig, reads_typed_fields_by_any_of_their_names) {
  const HfConfig config = config_of(R"({"a": 3, "b": 2.5, "c": true, "d": "x", "e": null, "f": [1, 2.5], "g": ["p"]})");
  EXPECT_EQ(config.integer("a", {1, 3}), 3);
  EXPECT_EQ(config.integer({"absent", "e", "a"}, {1, 3}), 3);
  EXPECT_EQ(config.number("a", {0, 10}), 3.0);
  EXPECT_EQ(config.number("b", {0, 10}), 2.5);
  EXPECT_TRUE(config.boolean_or("c", false));
  EXPECT_EQ(config.string_or("d", "y"), "x");
  EXPECT_EQ(config.numbers("f", 2, {0, 10}), (std::vector<double>{1, 2.5}));
  EXPECT_EQ(config.strings("g"), std::vector<std::string>{"p"});
}

TEST(HfConfig, null_counts_as_absent) {
  const HfConfig config = config_of(R"({"e": null})");
  EXPECT_FALSE(config.has("e"));
  EXPECT_TRUE(config.is_null("e"));
  EXPECT_FALSE(config.is_null("absent"));
  EXPECT_EQ(config.integer_or("e", 7, {0, 1}), 7);
  EXPECT_EQ(config.number_or("e", 7.5, {0, 1}), 7.5);
  EXPECT_EQ(config.string_or("e", "y"), "y");
  EXPECT_FALSE(config.section("e").has_value());
}

TEST(HfConfig, takes_one_integer_or_a_list_of_them) {
  EXPECT_EQ(config_of(R"({"eos": 2})").integers("eos", {0, 9}), std::vector<int32_t>{2});
  EXPECT_EQ(config_of(R"({"eos": [2, 5]})").integers("eos", {0, 9}), (std::vector<int32_t>{2, 5}));
  EXPECT_TRUE(config_of("{}").integers("eos", {0, 9}).empty());
}

TEST(HfConfig, every_refusal_names_file_field_value_and_what_was_expected) {
  const HfConfig config =
      config_of(R"({"a": -1, "s": "64", "b": true, "d": 4.5, "big": 99999999999, "list": [1, "x"], "o": {"n": 0.5}})");
  const auto message = [](auto&& read) { return refusal_of(read).message; };
  EXPECT_EQ(message([&] { config.integer("a", {1, 8}); }),
            "[config.json] out of range: a=-1, expected=an integer from 1 to 8");
  EXPECT_EQ(message([&] { config.integer("s", {1, 8}); }),
            "[config.json] wrong type: s='64', expected=an integer from 1 to 8, got=string");
  EXPECT_EQ(message([&] { config.integer("x", {1, 8}); }),
            "[config.json] missing field: x, expected=an integer from 1 to 8");
  EXPECT_EQ(message([&] { config.integer("big", {1, 8}); }),
            "[config.json] out of range: big=99999999999, expected=an integer from 1 to 8");
  EXPECT_EQ(message([&] { config.integer("b", {1, 8}); }),
            "[config.json] wrong type: b=true, expected=an integer from 1 to 8, got=bool");
  EXPECT_EQ(message([&] { config.integer("d", {1, 8}); }),
            "[config.json] wrong type: d=4.5, expected=an integer from 1 to 8, got=number");
  EXPECT_EQ(message([&] { config.boolean_or("a", true); }),
            "[config.json] wrong type: a=-1, expected=true or false, got=integer");
  EXPECT_EQ(message([&] { config.string_or("list", ""); }),
            "[config.json] wrong type: list=(array), expected=a string, got=array");
  EXPECT_EQ(message([&] { config.numbers("list", 3, {0, 1}); }),
            "[config.json] wrong length 2: list=(array), expected=a list of 3 numbers");
  EXPECT_EQ(message([&] { config.numbers("list", 2, {0, 1}); }),
            "[config.json] wrong type: list='x', expected=a number from 0 to 1, got=string");
  EXPECT_EQ(message([&] { config.section("o")->number("n", {1, 2}); }),
            "[config.json] out of range: o.n=0.5, expected=a number from 1 to 2");
  EXPECT_EQ(message([&] { config.section("a"); }), "[config.json] wrong type: a=-1, expected=an object, got=integer");
  EXPECT_EQ(message([] { config_of("[]"); }), "[config.json] wrong type: the document is (array), expected=an object");
}

}  // namespace
}  // namespace quire
