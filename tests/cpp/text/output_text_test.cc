#include "text/output_text.h"

#include <gtest/gtest.h>

#include "core/temporary_folder.h"
#include "text/text_fixture.h"

namespace quire {
namespace {

using Strings = std::vector<std::string>;

/// Byte tokens, as in Llama vocabularies: the newline is one.
class OutputTextTest : public ::testing::Test {
 protected:
  void SetUp() override {
    TemporaryFolder folder;
    folder.write("tokenizer.json",
                 tokenizer_json(R"("▁a":0,"b":1,"<0x0A>":2,"<0xE6>":3,"<0x97>":4,"<0xA5>":5,"<0x41>":6,"▁END":7,".":8)",
                                R"({"type":"Sequence","decoders":[
                                    {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},
                                    {"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})"));
    vocabulary_ = Vocabulary::from_folder(folder.path());
  }

  /// Feeds ids until a stop string ends the text; finishes otherwise. `num_blind` tokens come before stop counts.
  std::optional<size_t> run(const Strings& stop, const std::vector<int32_t>& ids, size_t num_blind = 0,
                            bool include_stop = false) {
    OutputText text(*vocabulary_, std::vector<int32_t>{1}, true, stop, include_stop);
    out_.clear();
    for (num_used_ = 0; num_used_ < ids.size();) {
      const bool enabled = num_used_ >= num_blind;
      if (const auto ended = text.append(ids[num_used_++], enabled, out_)) return ended;
    }
    text.finish(out_);
    return std::nullopt;
  }

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::string out_;
  size_t num_used_ = 0;
};

TEST_F(OutputTextTest, without_stop_strings_all_text_comes_out) {
  EXPECT_EQ(run({}, {0, 1, 2, 3, 4, 5}), std::nullopt);
  EXPECT_EQ(out_, " ab\n日");
}

TEST_F(OutputTextTest, newline_byte_token_ends_the_text_with_its_own_token) {
  EXPECT_EQ(run({"\n"}, {0, 2, 1, 1}), 0u);
  EXPECT_EQ(num_used_, 2u);
  EXPECT_EQ(out_, " a");
  EXPECT_EQ(run({"x", "\n"}, {0, 2, 1}, 0, true), 1u);
  EXPECT_EQ(out_, " a\n");
}

TEST_F(OutputTextTest, stop_string_may_begin_in_text_that_is_out_and_end_in_held_back_bytes) {
  EXPECT_EQ(run({"b\n日"}, {0, 1, 2, 3, 4, 5, 1}), 0u);
  EXPECT_EQ(num_used_, 6u);
  EXPECT_EQ(out_, " a");
}

TEST_F(OutputTextTest, held_back_bytes_that_turn_out_wrong_do_not_match) {
  EXPECT_EQ(run({"\n日A"}, {2, 3, 4, 5, 3, 6, 1}), std::nullopt);
  EXPECT_EQ(out_, "������b");
}

TEST_F(OutputTextTest, stop_strings_span_tokens) {
  EXPECT_EQ(run({" END."}, {0, 7, 8, 1}), 0u);
  EXPECT_EQ(out_, " a");
  EXPECT_EQ(run({" END."}, {0, 7, 1, 8}), std::nullopt);
  EXPECT_EQ(out_, " a ENDb.");
}

TEST_F(OutputTextTest, min_tokens_hides_stop_strings_of_earlier_tokens_for_good) {
  EXPECT_EQ(run({"b"}, {1, 0, 1, 0}, 1), 0u);
  EXPECT_EQ(num_used_, 3u);
  EXPECT_EQ(out_, "b a");
  EXPECT_EQ(run({"\n"}, {2, 0, 1, 2}, 1), 0u) << "also those that were held back when they did not count";
  EXPECT_EQ(num_used_, 4u);
  EXPECT_EQ(out_, "\n ab");
  EXPECT_EQ(run({"\n"}, {2, 6, 6, 0}, 1), std::nullopt);
  EXPECT_EQ(out_, "\nAA a");
}

TEST_F(OutputTextTest, long_run_of_byte_tokens_is_searched_once) {
  std::vector<int32_t> ids;
  for (int i = 0; i < 4000; ++i) ids.insert(ids.end(), {3, 4, 5});
  ids.push_back(2);
  EXPECT_EQ(run({"日日\n", "日a"}, ids), 0u);
  EXPECT_EQ(out_.size(), 3998u * 3u);
}

TEST(OutputText, text_is_the_librarys_up_to_the_first_stop_string) {
  const Strings stop = {"e ", "ش", "\n", "🙂", "a</w>", "日", "��"};
  int num_stopped = 0;
  for (const std::string& name : fixture_names()) {
    const auto vocabulary = fixture_vocabulary(name);
    for (const TextCase& text_case : fixture_cases(name)) {
      OutputText text(*vocabulary, {}, text_case.skip_special_tokens, stop, false);
      std::string out;
      std::optional<size_t> ended;
      size_t used = 0;
      while (used < text_case.ids.size() && !ended) ended = text.append(text_case.ids[used++], true, out);
      if (!ended) text.finish(out);
      std::string expected = text_case.texts[used];
      if (ended) {
        ASSERT_NE(expected.find(stop[*ended]), std::string::npos) << name;
        expected.resize(expected.find(stop[*ended]));
      }
      ASSERT_EQ(out, expected) << name << ", " << used << " tokens";
      num_stopped += ended.has_value();
    }
  }
  EXPECT_GT(num_stopped, 100);
}

}  // namespace
}  // namespace quire
