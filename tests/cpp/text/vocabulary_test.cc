#include "quire/vocabulary.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/refusal.h"
#include "core/temporary_folder.h"
#include "text/text_fixture.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

std::shared_ptr<const Vocabulary> from_json(const std::string& json) {
  TemporaryFolder folder;
  folder.write("tokenizer.json", json);
  return Vocabulary::from_folder(folder.path());
}

std::string decoded(const Vocabulary& vocabulary, std::vector<int32_t> ids, bool skip_special_tokens = true) {
  return vocabulary.decode(ids, skip_special_tokens);
}

/// One added token of tokenizer.json.
std::string added(int id, const std::string& content, bool special, bool normalized = false) {
  return R"({"id":)" + std::to_string(id) + R"(,"content":")" + content + R"(","special":)" +
         (special ? "true" : "false") + R"(,"normalized":)" + (normalized ? "true" : "false") + "}";
}

TEST(Vocabulary, folder_without_tokenizer_files_is_not_found_and_told_what_to_do) {
  TemporaryFolder folder;
  const Refusal refusal = refusal_of([&] { Vocabulary::from_folder(folder.path()); });
  EXPECT_EQ(refusal.kind, ErrorKind::kNotFound);
  EXPECT_TRUE(refusal.names(folder.path())) << refusal.message;
  EXPECT_TRUE(refusal.names("skip_tokenizer_init=True")) << refusal.message;
}

TEST(Vocabulary, prefers_tokenizer_json) {
  TemporaryFolder folder;
  folder.write("tokenizer.json", tokenizer_json(R"("from json":0)", "null"));
  folder.write("tokenizer.model", "no model");
  EXPECT_EQ(decoded(*Vocabulary::from_folder(folder.path()), {0}), "from json");
}

TEST(Vocabulary, ids_of_added_tokens_follow_the_model_and_not_the_file) {
  // As tokenizers does: "b" is the model's, the others are numbered behind its two tokens.
  const auto vocabulary = from_json(tokenizer_json(
      R"("a":0,"b":1)", R"({"type":"Fuse"})",
      R"("added_tokens":[)" + added(7, "<x>", true) + "," + added(9, "b", true) + "," + added(3, "<y>", false) + "],"));
  EXPECT_EQ(vocabulary->size(), 4);
  EXPECT_EQ(decoded(*vocabulary, {0, 1, 2, 3}, false), "ab<x><y>");
  EXPECT_EQ(decoded(*vocabulary, {0, 1, 2, 3}, true), "a<y>");
  EXPECT_TRUE(vocabulary->is_special(1));
  EXPECT_TRUE(vocabulary->is_special(2));
  EXPECT_FALSE(vocabulary->is_special(3));
  EXPECT_FALSE(vocabulary->is_special(-1));
  EXPECT_FALSE(vocabulary->is_special(4));
}

TEST(Vocabulary, normalized_added_tokens_decode_in_normal_form) {
  const auto vocabulary = from_json(
      tokenizer_json(R"("a":0)", R"({"type":"Replace","pattern":{"String":"▁"},"content":" "})",
                     R"("normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"NFC"},
         {"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"added_tokens":[)" +
                         added(1, "new words", false, true) + "," + added(2, "<s>", true, true) + "],"));
  EXPECT_EQ(decoded(*vocabulary, {0, 1, 2, 0}, false), "a new words <s>a");
  EXPECT_EQ(decoded(*vocabulary, {0, 1, 2, 0}, true), "a new wordsa");
}

TEST(Vocabulary, text_of_a_token_is_what_it_adds_to_other_text) {
  const auto llama = fixture_vocabulary("byte_fallback");
  EXPECT_EQ(llama->token_text(1), "<s>");
  EXPECT_EQ(llama->token_text(3 + 'A'), "A");
  EXPECT_EQ(llama->token_text(3 + 0xe6), "�");
  EXPECT_EQ(llama->token_text(llama->size()), "");
  const auto sentencepiece = fixture_vocabulary("sentencepiece_bpe");
  EXPECT_EQ(sentencepiece->token_text(2), "</s>");
  EXPECT_EQ(sentencepiece->token_text(3 + 0xe6), "�");
  int num_words = 0;
  for (int32_t id = 259; id < sentencepiece->size(); ++id) num_words += sentencepiece->token_text(id).starts_with(' ');
  EXPECT_GT(num_words, 10);
}

TEST(Vocabulary, decoders_that_are_not_known_are_refused_by_name) {
  for (const std::string name : {"WordPiece", "CTC", "Magic"}) {
    const Refusal refusal = refusal_of([&] { from_json(tokenizer_json("\"a\":0", R"({"type":")" + name + R"("})")); });
    EXPECT_EQ(refusal.kind, ErrorKind::kUnsupported);
    EXPECT_TRUE(refusal.names("tokenizer.json] decoder")) << refusal.message;
    EXPECT_TRUE(refusal.names("'" + name + "'")) << refusal.message;
  }
}

TEST(Vocabulary, orders_of_decoders_that_cannot_be_streamed_are_refused) {
  const std::string fuse = R"({"type":"Sequence","decoders":[{"type":"Fuse"},)";
  for (const std::string second :
       {R"({"type":"ByteLevel"})", R"({"type":"ByteFallback"})", R"({"type":"BPEDecoder","suffix":"</w>"})",
        R"({"type":"Replace","pattern":{"String":"ab"},"content":""})",
        R"({"type":"Replace","pattern":{"Regex":"a"},"content":""})"}) {
    const Refusal refusal = refusal_of([&] { from_json(tokenizer_json("\"a\":0", fuse + second + "]}")); });
    EXPECT_TRUE(refusal.names("decoder.decoders[1]")) << refusal.message;
  }
}

TEST(Vocabulary, wrong_fields_of_tokenizer_json_are_named) {
  const auto expect_named = [](const std::string& json, const std::string& place) {
    const Refusal refusal = refusal_of([&] { from_json(json); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument) << refusal.message;
    EXPECT_TRUE(refusal.names(place)) << refusal.message;
  };
  expect_named("[]", "expected=object, got=array");
  expect_named("{}", "model");
  expect_named(R"({"model":{"vocab":3}})", "model.vocab");
  expect_named(R"({"model":{"vocab":{"a":"b"}}})", "'a'");
  expect_named(R"({"model":{"vocab":{"a":-1}}})", "'a'");
  expect_named(R"({"model":{"vocab":{"a":2000000000}}})", "'a'");
  expect_named(R"({"model":{"vocab":{"a":1,"b":1}}})", "two tokens with one id");
  expect_named(R"({"model":{"vocab":[["a",0],"b"]}})", "model.vocab[1]");
  expect_named(tokenizer_json("", "7"), "decoder");
  expect_named(tokenizer_json("", "{}"), "decoder.type");
  expect_named(tokenizer_json("", R"({"type":"Strip","content":"ab","start":0,"stop":0})"), "decoder.content");
  expect_named(tokenizer_json("", R"({"type":"Strip","content":"a","start":-1,"stop":0})"), "decoder.start");
  expect_named(tokenizer_json("", "null", R"("added_tokens":[{"content":"x"}],)"), "added_tokens[0].special");
}

TEST(Vocabulary, large_tokenizer_json_loads_quickly) {
  std::string vocab;
  std::string merges;
  for (int id = 0; id < 150'000; ++id) {
    const std::string token = "\"Ġtoken" + std::to_string(id) + "\"";
    vocab.append(id == 0 ? "" : ",\n").append(token).append(": ").append(std::to_string(id));
    merges.append(id == 0 ? "[" : ",\n[").append(token).append(", ").append(token).append("]");
  }
  const std::string json =
      R"({"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{)" + vocab + R"(},"merges":[)" + merges + "]}}";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(decoded(*make_vocabulary(parse_tokenizer_json(json, "tokenizer.json")), {149'999}), " token149999");
  // About 0.1 s; the bound leaves room for sanitizers and busy machines and still tells linear from quadratic.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Vocabulary, sentencepiece_folder_shows_added_tokens) {
  TemporaryFolder folder;
  folder.write("tokenizer.model", read_text_file(data_path("text/sentencepiece_bpe/tokenizer.model")));
  const int32_t size = Vocabulary::from_folder(folder.path())->size();
  folder.write("tokenizer_config.json", R"({"added_tokens_decoder":{
      "0":{"content":"<unk>","special":true},"1":{"content":"<s>","special":true},
      "262":{"content":"<|im_start|>","special":true},")" +
                                            std::to_string(size + 1) + R"(":{"content":"<tool>","special":false}}})");
  const auto vocabulary = Vocabulary::from_folder(folder.path());
  EXPECT_EQ(vocabulary->size(), size + 2);
  EXPECT_EQ(decoded(*vocabulary, {1, 262, 0, size, size + 1}, true), " ⁇ <tool>");
  EXPECT_EQ(decoded(*vocabulary, {1, 262, 0, size, size + 1}, false), "<s><|im_start|> ⁇ <tool>");
}

TEST(Vocabulary, sentencepiece_folder_reads_the_older_list_of_added_tokens) {
  TemporaryFolder folder;
  folder.write("tokenizer.model", read_text_file(data_path("text/sentencepiece_bpe/tokenizer.model")));
  const int32_t size = Vocabulary::from_folder(folder.path())->size();
  folder.write("added_tokens.json", R"({"<pad>":)" + std::to_string(size) + R"(,"<tool>":)" + std::to_string(size + 1) +
                                        R"(,"<cls>":)" + std::to_string(size + 2) + "}");
  folder.write("tokenizer_config.json", R"({"add_bos_token":true,"cls_token":"<cls>"})");
  folder.write("special_tokens_map.json", R"({"pad_token":{"content":"<pad>"},"additional_special_tokens":["<x>"]})");
  const auto vocabulary = Vocabulary::from_folder(folder.path());
  EXPECT_EQ(decoded(*vocabulary, {size, size + 1, size + 2}, true), "<tool>");
  EXPECT_EQ(decoded(*vocabulary, {size, size + 1, size + 2}, false), "<pad><tool><cls>");
}

TEST(Vocabulary, tokens_that_chatglm_numbers_itself_stand_behind_the_pieces) {
  TemporaryFolder folder;
  folder.write("tokenizer.model", read_text_file(data_path("text/sentencepiece_bpe/tokenizer.model")));
  const int32_t size = Vocabulary::from_folder(folder.path())->size();
  folder.write("tokenizer_config.json", R"({"tokenizer_class":"ChatGLMTokenizer","added_tokens_decoder":{
      ")" + std::to_string(size + 6) + R"(":{"content":"<|user|>","special":false}}})");
  const auto vocabulary = Vocabulary::from_folder(folder.path());
  EXPECT_EQ(vocabulary->size(), size + 9);
  EXPECT_EQ(decoded(*vocabulary, {size + 1, size + 3, size + 6, size + 8}, false), "[gMASK]sop<|user|><|observation|>");
  EXPECT_EQ(decoded(*vocabulary, {size + 1, size + 3, size + 6, size + 8}, true), "<|user|>");
}

TEST(Vocabulary, file_that_is_no_sentencepiece_model_is_refused) {
  TemporaryFolder folder;
  for (const std::string content : {"", "no model\n",
                                    "\x0a\x05"
                                    "ab"}) {
    folder.write("tokenizer.model", content);
    const Refusal refusal = refusal_of([&] { Vocabulary::from_folder(folder.path()); });
    EXPECT_EQ(refusal.kind, ErrorKind::kInvalidArgument);
    EXPECT_TRUE(refusal.names("tokenizer.model] not a SentencePiece model")) << refusal.message;
  }
}

TEST(Vocabulary, model_with_rules_for_decoded_text_is_refused) {
  TemporaryFolder folder;
  folder.write("tokenizer.model",
               "\x0a\x03\x0a\x01"
               "a"
               "\x2a\x03\x12\x01"
               "x");
  const Refusal refusal = refusal_of([&] { Vocabulary::from_folder(folder.path()); });
  EXPECT_EQ(refusal.kind, ErrorKind::kUnsupported);
  EXPECT_TRUE(refusal.names("denormalizer_spec")) << refusal.message;
}

}  // namespace
}  // namespace quire
