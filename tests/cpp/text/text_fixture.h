#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "core/mapped_file.h"
#include "core/refusal.h"
#include "quire/vocabulary.h"

namespace quire {

/// A sequence and the library's text of each of its prefixes, the empty one first.
struct TextCase {
  std::vector<int32_t> ids;
  bool skip_special_tokens = false;
  std::vector<std::string> texts;
};

/// Every folder of tests/data/text: a tokenizer and its cases.json (see make_text_fixtures.py).
inline std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(data_path("text"))) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

inline std::shared_ptr<const Vocabulary> fixture_vocabulary(const std::string& name) {
  return Vocabulary::from_folder(data_path("text/" + name));
}

inline std::vector<TextCase> fixture_cases(const std::string& name) {
  const std::string path = data_path("text/" + name + "/cases.json");
  const Json document = parse_json(read_text_file(path), path);
  std::vector<TextCase> cases;
  for (const Json& entry : *document.as_array()) {
    TextCase& result = cases.emplace_back();
    for (const Json& id : *entry.find("ids")->as_array()) result.ids.push_back(static_cast<int32_t>(*id.as_int()));
    result.skip_special_tokens = *entry.find("skip")->as_bool();
    result.texts.emplace_back();
    for (const Json& delta : *entry.find("texts")->as_array()) {
      const size_t shared = static_cast<size_t>(*delta.as_array()->at(0).as_int());
      result.texts.push_back(result.texts.back().substr(0, shared) + *delta.as_array()->at(1).as_string());
    }
  }
  return cases;
}

/// tokenizer.json with the given vocabulary (the inside of an object), decoder and further members.
inline std::string tokenizer_json(std::string_view vocab, std::string_view decoder, std::string_view members = "") {
  return std::string(R"({"version":"1.0",)").append(members) + R"("decoder":)" + std::string(decoder) +
         R"(,"model":{"type":"BPE","vocab":{)" + std::string(vocab) + R"(},"merges":[]}})";
}

}  // namespace quire
