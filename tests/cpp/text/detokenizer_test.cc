#include <gtest/gtest.h>

#include "core/temporary_folder.h"
#include "text/text_fixture.h"

namespace quire {
namespace {

constexpr std::string_view kLlamaDecoder = R"({"type":"Sequence","decoders":[
    {"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},
    {"type":"Strip","content":" ","start":1,"stop":0}]})";
constexpr std::string_view kLlamaTokens =
    R"("<s>":0,"▁a":1,"b":2,"<0x0A>":3,"<0xE6>":4,"<0x97>":5,"<0xA5>":6,"<0x41>":7)";
constexpr std::string_view kBos = R"("added_tokens":[{"id":0,"content":"<s>","special":true,"normalized":false}],)";

/// Text behind a context, all at once.
std::string continued(const Vocabulary& vocabulary, std::vector<int32_t> context, std::vector<int32_t> ids,
                      bool skip_special_tokens = true) {
  const auto text = vocabulary.detokenizer(context, skip_special_tokens);
  std::string out;
  for (const int32_t id : ids) text->append(id, out);
  text->finish(out);
  return out;
}

class Fixture : public ::testing::TestWithParam<std::string> {};

TEST_P(Fixture, decodes_as_the_library_does) {
  const auto vocabulary = fixture_vocabulary(GetParam());
  for (const TextCase& text_case : fixture_cases(GetParam())) {
    for (size_t length = 0; length <= text_case.ids.size(); ++length) {
      const std::span<const int32_t> ids = std::span(text_case.ids).first(length);
      ASSERT_EQ(vocabulary->decode(ids, text_case.skip_special_tokens), text_case.texts[length]);
    }
  }
}

TEST_P(Fixture, streams_only_what_stays_and_knows_every_prefix) {
  const auto vocabulary = fixture_vocabulary(GetParam());
  for (const TextCase& text_case : fixture_cases(GetParam())) {
    const auto text = vocabulary->detokenizer({}, text_case.skip_special_tokens);
    std::string out;
    for (size_t i = 0; i < text_case.ids.size(); ++i) {
      text->append(text_case.ids[i], out);
      ASSERT_EQ(out + text->pending(), text_case.texts[i + 1]) << "prefix of " << i + 1 << " tokens";
      ASSERT_TRUE(text_case.texts.back().starts_with(out)) << "taken back behind " << i + 1 << " tokens";
    }
    text->finish(out);
    ASSERT_EQ(out, text_case.texts.back());
  }
}

TEST_P(Fixture, adds_to_its_context_what_the_library_adds) {
  const auto vocabulary = fixture_vocabulary(GetParam());
  int num_checked = 0;
  int num_changed = 0;
  for (const TextCase& text_case : fixture_cases(GetParam())) {
    for (size_t split = 0; split <= text_case.ids.size(); ++split) {
      const std::string& context = text_case.texts[split];
      // Where the context's last bytes are no character yet, the library's texts do not say what the output adds.
      const bool changed = !text_case.texts.back().starts_with(context) || context.ends_with("�");
      ++(changed ? num_changed : num_checked);
      if (changed) continue;
      const auto ids = text_case.ids.begin();
      ASSERT_EQ(context + continued(*vocabulary, {ids, ids + split}, {ids + split, text_case.ids.end()},
                                    text_case.skip_special_tokens),
                text_case.texts.back())
          << "split at " << split;
    }
  }
  EXPECT_GT(num_checked, num_changed);
}

INSTANTIATE_TEST_SUITE_P(All, Fixture, ::testing::ValuesIn(fixture_names()),
                         [](const auto& info) { return info.param; });

class LlamaText : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("tokenizer.json", tokenizer_json(kLlamaTokens, kLlamaDecoder, kBos));
    vocabulary_ = Vocabulary::from_folder(folder_.path());
  }

  TemporaryFolder folder_;
  std::shared_ptr<const Vocabulary> vocabulary_;
};

TEST_F(LlamaText, first_space_is_kept_behind_a_prompt) {
  EXPECT_EQ(vocabulary_->decode(std::vector<int32_t>{1, 2}, true), "ab");
  EXPECT_EQ(continued(*vocabulary_, {0, 1, 2}, {1, 2}), " ab");
}

TEST_F(LlamaText, first_space_is_dropped_where_the_prompt_has_no_text) {
  EXPECT_EQ(continued(*vocabulary_, {0}, {1, 2}), "ab");
  EXPECT_EQ(continued(*vocabulary_, {0}, {1, 2}, false), " ab");
}

TEST_F(LlamaText, run_of_byte_tokens_waits_for_its_end) {
  const auto text = vocabulary_->detokenizer({}, true);
  std::string out;
  for (const int32_t id : {4, 5, 6, 3}) text->append(id, out);
  EXPECT_EQ(out, "");
  EXPECT_EQ(text->pending(), "日\n");
  text->append(2, out);
  EXPECT_EQ(out, "日\nb");
}

TEST_F(LlamaText, one_wrong_byte_spoils_the_run_at_once) {
  const auto text = vocabulary_->detokenizer({}, true);
  std::string out;
  for (const int32_t id : {4, 5, 6, 5}) text->append(id, out);
  EXPECT_EQ(out, "����");
  text->append(7, out);
  EXPECT_EQ(out, "�����");
  text->append(2, out);
  text->append(7, out);
  EXPECT_EQ(out + text->pending(), "�����bA");
}

TEST_F(LlamaText, character_begun_in_the_prompt_belongs_to_the_output) {
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5}, {6, 2}), "日b");
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5, 6, 4}, {5, 6, 2}), "日b");
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5, 6}, {3, 2}), "\nb") << "the prompt's whole characters are not repeated";
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5}, {2}), "b") << "the prompt's broken character is not the output's";
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5}, {7, 2}), "�b");
  EXPECT_EQ(continued(*vocabulary_, {1, 4, 5}, {}), "");
}

TEST_F(LlamaText, unknown_ids_add_nothing) {
  EXPECT_EQ(vocabulary_->decode(std::vector<int32_t>{-1, 1, 8, 2147483647, 2}, true), "ab");
}

TEST(ByteLevelText, character_begun_in_the_prompt_belongs_to_the_output) {
  TemporaryFolder folder;
  folder.write("tokenizer.json", tokenizer_json(R"("a":0,"æ":1,"Ĺ":2,"¥":3)", R"({"type":"ByteLevel"})"));
  const auto vocabulary = Vocabulary::from_folder(folder.path());
  EXPECT_EQ(continued(*vocabulary, {0, 1, 2}, {3, 0}), "日a");
  EXPECT_EQ(continued(*vocabulary, {0, 1, 2}, {0}), "a");
  EXPECT_EQ(continued(*vocabulary, {0, 1, 2}, {1, 0}), "�a");
  EXPECT_EQ(continued(*vocabulary, {0, 1}, {2}), "");
}

TEST(LastPieceText, space_behind_the_last_word_of_the_prompt_belongs_to_the_output) {
  TemporaryFolder folder;
  folder.write("tokenizer.json",
               tokenizer_json(R"("low</w>":0,"er</w>":1)", R"({"type":"BPEDecoder","suffix":"</w>"})"));
  const auto vocabulary = Vocabulary::from_folder(folder.path());
  EXPECT_EQ(vocabulary->decode(std::vector<int32_t>{0, 1}, true), "low er");
  EXPECT_EQ(continued(*vocabulary, {0}, {1, 0}), " er low");
  EXPECT_EQ(continued(*vocabulary, {0}, {}), "");
}

}  // namespace
}  // namespace quire
