#include <gtest/gtest.h>

#include "core/refusal.h"
#include "core/temporary_folder.h"
#include "text/text_fixture.h"

namespace quire {
namespace {

class VocabJson : public ::testing::Test {
 protected:
  VocabJson() { write("vocab.json", R"({"<s>":0,"<|endoftext|>":1,"Ġhi":2,"æĹ":3,"¥":4})"); }

  void write(std::string_view name, std::string_view content) { folder_.write(name, content); }
  std::string decoded(std::vector<int32_t> ids, bool skip_special_tokens) const {
    return Vocabulary::from_folder(folder_.path())->decode(ids, skip_special_tokens);
  }
  Refusal refusal() const {
    return refusal_of([&] { Vocabulary::from_folder(folder_.path()); });
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(VocabJson, is_decoded_as_bytes_with_end_of_text_as_its_special_token) {
  EXPECT_EQ(decoded({2, 3, 4, 0, 1}, false), " hi日<s><|endoftext|>");
  EXPECT_EQ(decoded({2, 3, 4, 0, 1}, true), " hi日<s>");
}

TEST_F(VocabJson, tokens_that_a_file_names_are_special) {
  write("special_tokens_map.json", R"({"bos_token":{"content":"<s>"}})");
  EXPECT_EQ(decoded({0, 2, 1}, true), " hi");
}

TEST_F(VocabJson, added_tokens_have_the_ids_that_the_file_gives) {
  write("added_tokens.json", R"({"  two words":7,"<x>":5})");
  write("tokenizer_config.json", R"({"pad_token":"<x>"})");
  EXPECT_EQ(decoded({5, 6, 7}, false), "<x>  two words");
  EXPECT_EQ(decoded({5, 6, 7}, true), "  two words");
}

TEST_F(VocabJson, is_used_without_any_other_vocabulary_only) {
  write("tokenizer.json", tokenizer_json(R"("from json":0)", "null"));
  EXPECT_EQ(decoded({0}, false), "from json");
}

TEST_F(VocabJson, wrong_fields_are_named) {
  const auto expect_named = [&](std::string_view json, const std::string& place) {
    write("vocab.json", json);
    const Refusal refused = refusal();
    EXPECT_EQ(refused.kind, ErrorKind::kInvalidArgument) << refused.message;
    EXPECT_TRUE(refused.names("vocab.json]") && refused.names(place)) << refused.message;
  };
  expect_named("[]", "expected=object, got=array");
  expect_named(R"({"a":"0"})", "'a'");
  expect_named(R"({"a":-1})", "'a'");
  expect_named(R"({"a":4194304})", "'a'");
  expect_named(R"({"a":1,"b":1})", "two tokens with one id");
}

}  // namespace
}  // namespace quire
