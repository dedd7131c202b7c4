#include <gtest/gtest.h>

#include <algorithm>

#include "core/mutation.h"
#include "text/text_fixture.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

constexpr int kNumMutations = 4000;

/// A file that is taken must also decode, whatever the ids.
void decode_everything(const Vocabulary& vocabulary) {
  std::vector<int32_t> ids = {-1};
  for (int32_t i = 0; i <= std::min(vocabulary.size(), 600); ++i) ids.push_back(i * 7 % 601);
  const auto text = vocabulary.detokenizer(std::span(ids).first(5), false);
  std::string out;
  for (const int32_t id : ids) text->append(id, out);
  EXPECT_LE(text->pending().size(), 3 * ids.size() + (1 << 16));
  text->finish(out);
  vocabulary.token_text(ids.back());
}

int read_json(const uint8_t* data, size_t size) {
  expect_read_or_refused([=] {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    decode_everything(*make_vocabulary(parse_tokenizer_json(text, "tokenizer.json")));
  });
  return 0;
}

int read_model(const uint8_t* data, size_t size) {
  expect_read_or_refused([=] {
    const std::string_view bytes(reinterpret_cast<const char*>(data), size);
    const TokenizerSettings settings = {
        .tokenizer_class = "ChatGLMTokenizer", .added = {{.id = 300, .content = "<x>"}}, .special_names = {}};
    decode_everything(*make_vocabulary(parse_sentencepiece_model(bytes, settings, "model")));
  });
  return 0;
}

int read_tiktoken(const uint8_t* data, size_t size) {
  expect_read_or_refused([=] {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const TokenizerSettings settings = {
        .tokenizer_class = "QWenTokenizer", .added = {{.id = 300, .content = "<x>"}}, .special_names = {}};
    is_tiktoken(text);
    decode_everything(*make_vocabulary(parse_tiktoken(text, settings, "qwen.tiktoken")));
  });
  return 0;
}

int read_vocab(const uint8_t* data, size_t size) {
  expect_read_or_refused([=] {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    const TokenizerSettings settings = {
        .tokenizer_class = {}, .added = {{.id = 300, .content = "<x>"}}, .special_names = {"Ġ"}};
    decode_everything(*make_vocabulary(parse_vocab_json(text, settings, "vocab.json")));
  });
  return 0;
}

std::vector<std::string> fixture_files(const std::string& name) {
  std::vector<std::string> files;
  for (const std::string& fixture : fixture_names()) {
    const std::string path = data_path("text/" + fixture + "/" + name);
    if (std::filesystem::exists(path)) files.push_back(read_text_file(path));
  }
  return files;
}

TEST(Readers, mutated_tokenizer_json_is_read_or_refused) {
  const std::vector<std::string> tokens = {"null",
                                           "[]",
                                           "{}",
                                           "0",
                                           "-1",
                                           "4194303",
                                           "1e999",
                                           "\"\"",
                                           "\"▁\"",
                                           "\"decoder\":",
                                           "\"vocab\":",
                                           "\"type\":",
                                           "\"Sequence\"",
                                           "\"ByteLevel\"",
                                           "\"ByteFallback\"",
                                           "\"Fuse\"",
                                           "\"Strip\"",
                                           "\"Metaspace\"",
                                           "\"BPEDecoder\"",
                                           "{\"type\":\"Fuse\"},",
                                           "{\"type\":\"ByteFallback\"},",
                                           "\\u0000",
                                           "\\ud800",
                                           "\xff",
                                           "[[[[[[[["};
  run_mutations(Mutator(fixture_files("tokenizer.json"), tokens, 1), kNumMutations, read_json);
}

TEST(Readers, mutated_sentencepiece_model_is_read_or_refused) {
  const std::vector<std::string> tokens = {std::string(1, '\0'),
                                           "\x0a",
                                           "\x0a\x7f",
                                           "\x12",
                                           "\x1a",
                                           "\x2a\x02\x12",
                                           "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
                                           "<0x41>",
                                           "\x18\x06",
                                           "\x18\x03"};
  run_mutations(Mutator(fixture_files("tokenizer.model"), tokens, 2), kNumMutations, read_model);
}

TEST(Readers, mutated_tiktoken_vocabulary_is_read_or_refused) {
  const std::vector<std::string> tokens = {
      " ",     "\n", "\r\n", "=",  "==",        "=A==",      "IQ== 0\n",
      " -1\n", "/+", "\xff", "\0", "4194303\n", "4194304\n", "99999999999999999999"};
  run_mutations(Mutator(fixture_files("qwen.tiktoken"), tokens, 3), kNumMutations, read_tiktoken);
}

TEST(Readers, mutated_vocab_json_is_read_or_refused) {
  const std::vector<std::string> tokens = {"null",  "[]",    "{}",       "0",       "-1",  "4194303",
                                           "1e999", "\"\":", "\"Ġ\":1,", "\\ud800", "\xff"};
  run_mutations(Mutator(fixture_files("vocab.json"), tokens, 4), kNumMutations, read_vocab);
}

TEST(Readers, replacements_cannot_blow_up_a_small_file) {
  const std::string wide = std::string(60'000, 'a');
  std::string steps;
  for (int i = 0; i < 12; ++i) {
    steps += R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"},)";
  }
  const std::string json =
      tokenizer_json("\"" + wide + "\":0", R"({"type":"Sequence","decoders":[)" + steps + R"({"type":"Fuse"}]})");
  EXPECT_TRUE(refusal_of([&] { parse_tokenizer_json(json, "tokenizer.json"); }).names("too long"));
}

}  // namespace
}  // namespace quire
