#include <gtest/gtest.h>

#include "core/refusal.h"
#include "core/temporary_folder.h"
#include "text/text_fixture.h"

namespace quire {
namespace {

// "!", a byte that begins a character, the two that end it, and " hi".
constexpr std::string_view kRanks = "IQ== 0\n5g== 1\r\nl6U= 2\n\nIGhp 3\n";
constexpr int32_t kFirstSpecial = 4;

class TiktokenFolder {
 public:
  explicit TiktokenFolder(std::string_view tokenizer_class, std::string_view members = "") {
    folder_.write("tokenizer_config.json",
                  R"({"tokenizer_class":")" + std::string(tokenizer_class) + "\"" + std::string(members) + "}");
  }

  void write(std::string_view name, std::string_view ranks) { folder_.write(name, ranks); }
  std::shared_ptr<const Vocabulary> open() const { return Vocabulary::from_folder(folder_.path()); }
  Refusal refusal() const {
    return refusal_of([&] { open(); });
  }

 private:
  TemporaryFolder folder_;
};

std::string decoded(const Vocabulary& vocabulary, std::vector<int32_t> ids, bool skip_special_tokens = false) {
  return vocabulary.decode(ids, skip_special_tokens);
}

TEST(Tiktoken, qwen_has_its_special_tokens_behind_the_ranks_though_no_file_lists_them) {
  TiktokenFolder folder("QWenTokenizer");
  folder.write("qwen.tiktoken", kRanks);
  const auto vocabulary = folder.open();
  EXPECT_EQ(vocabulary->size(), kFirstSpecial + 3 + 205);
  EXPECT_EQ(decoded(*vocabulary, {0, 1, 2, 3, 5, 6, kFirstSpecial + 3 + 204}),
            "!日 hi<|im_start|><|im_end|><|extra_204|>");
  EXPECT_EQ(decoded(*vocabulary, {0, 4, 1, 2}, true), "!日");
  EXPECT_EQ(decoded(*vocabulary, {1, 4, 2}), "\xef\xbf\xbd<|endoftext|>\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(Tiktoken, numbers_that_a_class_leaves_out_have_no_token) {
  for (const std::string name : {"Arcade100kTokenizer", "TiktokenTokenizerWrapper"}) {
    TiktokenFolder folder(name);
    folder.write("some.tiktoken", kRanks);
    const auto vocabulary = folder.open();
    EXPECT_EQ(decoded(*vocabulary, {0, kFirstSpecial, kFirstSpecial + 1}), "!<|endoftext|>") << name;
    EXPECT_FALSE(vocabulary->is_special(kFirstSpecial));
  }
}

TEST(Tiktoken, dbrx_has_the_special_ids_that_it_was_published_with) {
  // 100256 ranks put <|endoftext|> at 100257, <|endofprompt|> at 100276 and <|im_end|> at 100279.
  TiktokenFolder folder("TiktokenTokenizerWrapper");
  folder.write("cl100k_base.tiktoken", "IQ== 0\nIg== 100255\n");
  const auto vocabulary = folder.open();
  EXPECT_EQ(vocabulary->size(), 100280);
  EXPECT_EQ(decoded(*vocabulary, {100257, 100276, 100279}), "<|endoftext|><|endofprompt|><|im_end|>");
}

TEST(Tiktoken, arcade_has_the_special_ids_that_it_was_published_with) {
  TiktokenFolder folder("Arcade100kTokenizer");
  folder.write("arcade100k.tiktoken", "IQ== 0\nIg== 100255\n");
  const auto vocabulary = folder.open();
  EXPECT_EQ(vocabulary->size(), 100289);
  EXPECT_EQ(decoded(*vocabulary, {100257, 100276, 100278, 100288}), "<|endoftext|><|endofprompt|><|im_end|><|extra0|>");
}

TEST(Tiktoken, tokens_that_the_folder_lists_go_before_those_of_the_class) {
  TiktokenFolder folder("QWenTokenizerFast", R"(,"added_tokens_decoder":{
      "4":{"content":"<end>","special":true},"9":{"content":"<|im_start|>","special":false}})");
  folder.write("qwen.tiktoken", kRanks);
  EXPECT_EQ(decoded(*folder.open(), {4, 5, 6, 9}), "<end><|im_end|><|im_start|>");
  EXPECT_EQ(decoded(*folder.open(), {4, 5, 6, 9}, true), "<|im_start|>");
}

TEST(Tiktoken, vocabulary_under_the_name_of_a_sentencepiece_model_is_recognised) {
  for (const std::string name : {"ChatGLM4Tokenizer", "ChatGLMTokenizer"}) {
    TiktokenFolder folder(name);
    folder.write("tokenizer.model", kRanks);
    EXPECT_EQ(decoded(*folder.open(), {3, kFirstSpecial + 2, kFirstSpecial + 4, kFirstSpecial + 7}),
              " hi[gMASK]<sop><|user|>");
  }
}

TEST(Tiktoken, damaged_lines_are_refused_by_number) {
  TiktokenFolder folder("QWenTokenizer");
  for (const std::string line :
       {"IQ==", "IQ== ", "IQ==  0", "IQ== x", "IQ== -1", "IQ== 4194304", "IQ== 99999999999999999999", "IQ= 0", "I=== 0",
        "IQ==IQ== 0", "=== 0", " 0", "\xff\xff\xff\xff 0", "IQ== 0 0"}) {
    folder.write("qwen.tiktoken", "Ig== 1\n" + line + "\n");
    const Refusal refusal = folder.refusal();
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument) << line;
    EXPECT_TRUE(refusal.names("qwen.tiktoken] line 2")) << refusal.message;
  }
  folder.write("qwen.tiktoken", "Ig== 1\nIQ== 1\n");
  EXPECT_TRUE(folder.refusal().names("line 2 gives a second token the rank 1"));
  folder.write("qwen.tiktoken", "\n\n");
  EXPECT_TRUE(folder.refusal().names("qwen.tiktoken] has no tokens"));
}

TEST(Tiktoken, two_vocabularies_in_one_folder_are_refused) {
  TiktokenFolder folder("QWenTokenizer");
  folder.write("a.tiktoken", kRanks);
  folder.write("b.tiktoken", kRanks);
  EXPECT_TRUE(folder.refusal().names("several tiktoken vocabularies"));
}

TEST(Tiktoken, folder_without_the_vocabulary_that_its_class_reads_is_told_which) {
  const Refusal refusal = TiktokenFolder("TiktokenTokenizerWrapper").refusal();
  EXPECT_EQ(refusal.kind, ErrorKind::kNotFound);
  EXPECT_TRUE(refusal.names("TiktokenTokenizerWrapper reads cl100k_base.tiktoken")) << refusal.message;
}

TEST(Tiktoken, wrong_class_name_is_refused_by_field) {
  TemporaryFolder folder;
  folder.write("tokenizer_config.json", R"({"tokenizer_class":7})");
  const Refusal refusal = refusal_of([&] { Vocabulary::from_folder(folder.path()); });
  EXPECT_TRUE(refusal.names("tokenizer_config.json] tokenizer_class")) << refusal.message;
}

}  // namespace
}  // namespace quire
