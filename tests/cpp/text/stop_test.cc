#include "text/stop.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "core/refusal.h"

namespace quire {
namespace {

using Strings = std::vector<std::string>;

/// What has been fed and handed out so far.
struct Feeder {
  explicit Feeder(const Strings& stop, bool include_stop = false) : matcher(stop, include_stop) {}

  std::optional<size_t> feed(std::string_view text, bool enabled = true) { return matcher.feed(text, enabled, out); }

  StopMatcher matcher;
  std::string out;
};

TEST(StopMatcher, cuts_in_front_of_a_stop_string_inside_a_piece) {
  Feeder feeder({"END"});
  EXPECT_EQ(feeder.feed("a story. END and more"), 0u);
  EXPECT_EQ(feeder.out, "a story. ");
}

TEST(StopMatcher, keeps_the_stop_string_if_asked_and_drops_what_follows) {
  Feeder feeder({"END"}, true);
  EXPECT_EQ(feeder.feed("a story. EN"), std::nullopt);
  EXPECT_EQ(feeder.feed("D and more"), 0u);
  EXPECT_EQ(feeder.out, "a story. END");
}

TEST(StopMatcher, holds_back_only_what_could_begin_a_stop_string) {
  Feeder feeder({"\n\nUser:", "\n\n\n"});
  EXPECT_EQ(feeder.feed("one\n"), std::nullopt);
  EXPECT_EQ(feeder.out, "one");
  EXPECT_EQ(feeder.feed("\nUs"), std::nullopt);
  EXPECT_EQ(feeder.out, "one");
  EXPECT_EQ(feeder.feed("ual\n"), std::nullopt);
  EXPECT_EQ(feeder.out, "one\n\nUsual");
  feeder.matcher.finish(feeder.out);
  EXPECT_EQ(feeder.out, "one\n\nUsual\n");
}

TEST(StopMatcher, earliest_end_counts_and_then_the_longest) {
  Feeder earliest({"abcd", "bc"});
  EXPECT_EQ(earliest.feed("xabcd"), 1u);
  EXPECT_EQ(earliest.out, "xa");
  Feeder longest({"cd", "abcd", "bcd"});
  EXPECT_EQ(longest.feed("xabcd"), 1u);
  EXPECT_EQ(longest.out, "x");
}

TEST(StopMatcher, finds_a_stop_string_behind_its_own_broken_beginning) {
  Feeder feeder({"aab"});
  EXPECT_EQ(feeder.feed("aaa"), std::nullopt);
  EXPECT_EQ(feeder.out, "a");
  EXPECT_EQ(feeder.feed("b"), 0u);
  EXPECT_EQ(feeder.out, "a");
}

TEST(StopMatcher, matches_bytes_of_any_script) {
  Feeder feeder({"。", "🙂"});
  EXPECT_EQ(feeder.feed("你好、"), std::nullopt) << "shares its first two bytes with the stop string";
  EXPECT_EQ(feeder.out, "你好、");
  EXPECT_EQ(feeder.feed("再见🙂。"), 1u);
  EXPECT_EQ(feeder.out, "你好、再见");
}

TEST(StopMatcher, ignores_what_ends_before_matching_is_enabled) {
  Feeder feeder({"END"});
  EXPECT_EQ(feeder.feed("END one EN", false), std::nullopt);
  EXPECT_EQ(feeder.out, "END one ");
  EXPECT_EQ(feeder.feed("D"), 0u) << "the end counts, not the beginning";
  EXPECT_EQ(feeder.out, "END one ");
}

TEST(StopMatcher, refuses_empty_and_broken_stop_strings) {
  for (const Strings& stop : {Strings{"a", ""}, Strings{"a", "\xe6\x97"}}) {
    const Refusal refusal = refusal_of([&] { StopMatcher(stop, false); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(refusal.names("index=1")) << refusal.message;
  }
}

/// The definition, without any cleverness.
struct Expected {
  std::optional<size_t> index;
  std::string text;  ///< handed out; without a match only what is certain
};

Expected expected_of(const Strings& stop, const std::string& text, size_t enabled_from, bool include_stop) {
  for (size_t end = 1; end <= text.size(); ++end) {
    std::optional<size_t> best;
    for (size_t i = 0; i < stop.size(); ++i) {
      if (end <= enabled_from || !std::string_view(text).substr(0, end).ends_with(stop[i])) continue;
      if (!best || stop[i].size() > stop[*best].size()) best = i;
    }
    if (best) return {best, text.substr(0, include_stop ? end : end - stop[*best].size())};
  }
  size_t held = 0;
  for (const std::string& string : stop) {
    for (size_t length = 1; length < string.size(); ++length) {
      if (text.ends_with(string.substr(0, length))) held = std::max(held, length);
    }
  }
  return {std::nullopt, text.substr(0, text.size() - held)};
}

TEST(StopMatcher, agrees_with_its_definition_on_random_texts) {
  std::mt19937 random(7);
  const auto below = [&](size_t bound) { return static_cast<size_t>(random() % bound); };
  const auto letters = [&](size_t length) {
    std::string text(length, 'a');
    for (char& letter : text) letter = static_cast<char>('a' + below(2));
    return text;
  };
  int num_matches = 0;
  for (int round = 0; round < 3000; ++round) {
    Strings stop(1 + below(4));
    for (std::string& string : stop) string = letters(2 + below(7));
    const bool include_stop = below(2) == 0;
    const size_t num_disabled = below(3);
    size_t enabled_from = 0;
    Feeder feeder(stop, include_stop);
    std::string text;
    for (size_t i = 0; i < 8; ++i) {
      const std::string piece = letters(below(5));
      text += piece;
      if (i < num_disabled) enabled_from = text.size();
      const std::optional<size_t> ended = feeder.feed(piece, i >= num_disabled);
      const Expected expected = expected_of(stop, text, enabled_from, include_stop);
      ASSERT_EQ(ended.has_value(), expected.index.has_value()) << text;
      if (ended) {
        ASSERT_EQ(stop[*ended], stop[*expected.index]) << text;
      }
      ASSERT_EQ(feeder.out, expected.text) << text;
      num_matches += ended.has_value();
      if (ended) break;
    }
  }
  EXPECT_GT(num_matches, 500);
}

TEST(StopMatcher, cost_does_not_grow_with_the_length_of_near_matches) {
  Strings stop;
  for (size_t i = 0; i < 16; ++i) stop.push_back(std::string(255, 'a') + static_cast<char>('b' + i));
  Feeder feeder(stop);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100'000; ++i) ASSERT_EQ(feeder.feed("aaaa"), std::nullopt);
  // Comparing every stop string at every byte would be 1.6e9 steps; this is about 1.3e7, some 50 ms.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(3));
  EXPECT_EQ(feeder.feed("q"), 15u);
  EXPECT_EQ(feeder.out, std::string(400'000 - 255, 'a'));
}

}  // namespace
}  // namespace quire
