#include "text/tokenizer_settings.h"

#include <charconv>
#include <filesystem>
#include <optional>
#include <string_view>

#include "core/check.h"
#include "core/mapped_file.h"
#include "core/quote.h"
#include "text/json_fields.h"
#include "text/token_table.h"

namespace quire {
namespace {

std::optional<JsonFile> read_if_there(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return std::nullopt;
  return JsonFile(read_text_file(path.string()), path.string());
}

int64_t parse_id(const std::string& text, const std::string& place) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), id);
  QUIRE_REQUIRE(error == std::errc() && end == text.data() + text.size() && id >= 0 && id <= TokenTable::kMaxId,
                ErrorKind::kInvalidArgument, place, " has a key that is no token id: got=", in_quotes(text));
  return id;
}

std::vector<AddedToken> from_decoder(const JsonField& decoder) {
  std::vector<AddedToken> tokens;
  for (const auto& [key, value] : decoder.object()) {
    const JsonField token = {&value, decoder.place + "." + key};
    const JsonField special = token.member("special");
    tokens.push_back({.id = parse_id(key, decoder.place),
                      .content = token.member("content").string(),
                      .special = special.present() && special.boolean()});
  }
  return tokens;
}

/// A token is written as its text or as an object with its `content`.
void note_names(const Json& value, std::set<std::string>& names) {
  if (const std::string* name = value.as_string()) names.insert(*name);
  if (const Json* content = value.find("content")) note_names(*content, names);
  if (const Json::Array* list = value.as_array()) {
    for (const Json& element : *list) note_names(element, names);
  }
}

/// The tokens that fields like `eos_token` and `additional_special_tokens` of a configuration name.
void note_special(const JsonFile& file, std::set<std::string>& names) {
  for (const auto& [field, value] : file.root().object()) {
    if (field.ends_with("_token") || field == "additional_special_tokens") note_names(value, names);
  }
}

std::vector<AddedToken> from_list(const JsonField& list, const std::set<std::string>& special) {
  std::vector<AddedToken> tokens;
  for (const auto& [content, value] : list.object()) {
    const int64_t* id = value.as_int();
    QUIRE_REQUIRE(id != nullptr && *id >= 0 && *id <= TokenTable::kMaxId, ErrorKind::kInvalidArgument, list.place,
                  " has a token without an id: token=", in_quotes(content));
    tokens.push_back({.id = *id, .content = content, .special = special.contains(content)});
  }
  return tokens;
}

std::string class_name(const JsonField& field) {
  if (!field.present()) return {};
  constexpr std::string_view kFast = "Fast";
  std::string name = field.string();
  if (name.ends_with(kFast)) name.erase(name.size() - kFast.size());
  return name;
}

}  // namespace

TokenizerSettings read_tokenizer_settings(const std::string& folder) {
  const std::filesystem::path base(folder);
  TokenizerSettings settings;
  if (const std::optional<JsonFile> map = read_if_there(base / "special_tokens_map.json")) {
    note_special(*map, settings.special_names);
  }
  const std::optional<JsonFile> config = read_if_there(base / "tokenizer_config.json");
  if (config) {
    note_special(*config, settings.special_names);
    settings.tokenizer_class = class_name(config->root().member("tokenizer_class"));
    const JsonField decoder = config->root().member("added_tokens_decoder");
    if (decoder.present()) {
      settings.added = from_decoder(decoder);
      return settings;
    }
  }
  if (const std::optional<JsonFile> list = read_if_there(base / "added_tokens.json")) {
    settings.added = from_list(list->root(), settings.special_names);
  }
  return settings;
}

}  // namespace quire
