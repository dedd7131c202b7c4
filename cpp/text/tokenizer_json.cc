#include <algorithm>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "text/content_normalizer.h"
#include "text/decoder_json.h"
#include "text/json_fields.h"
#include "text/prepared_tokens.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

/// Moves the steps at the front that treat every piece alike, so that they can be applied once, to the table.
std::vector<DecodeStep> take_static_steps(std::vector<DecodeStep>& steps) {
  const auto is_static = [](const DecodeStep& step) {
    return std::holds_alternative<ReplaceStep>(step) || std::holds_alternative<StripStep>(step) ||
           std::holds_alternative<ByteMapStep>(step);
  };
  const auto end = std::find_if_not(steps.begin(), steps.end(), is_static);
  std::vector<DecodeStep> taken(std::make_move_iterator(steps.begin()), std::make_move_iterator(end));
  steps.erase(steps.begin(), end);
  return taken;
}

class TokenReader {
 public:
  TokenReader(const JsonFile& file, std::vector<DecodeStep> static_steps)
      : root_(file.root()), tokens_(file.path, std::move(static_steps)) {}

  void read_model();
  void read_added_tokens();
  TokenTable take() && { return std::move(tokens_).take(); }

 private:
  std::unordered_map<std::string_view, int64_t> ids_of_added_tokens() const;

  JsonField root_;
  PreparedTokens tokens_;
};

/// `vocab` is an object of ids, or for Unigram a list of [token, score].
void TokenReader::read_model() {
  const JsonField vocab = root_.member("model").member("vocab");
  if (vocab.present() && vocab.value->as_array() != nullptr) {
    const Json::Array& list = vocab.array();
    for (size_t id = 0; id < list.size(); ++id) {
      const Json::Array* entry = list[id].as_array();
      const std::string* token = entry == nullptr || entry->empty() ? nullptr : entry->front().as_string();
      QUIRE_REQUIRE(token != nullptr, ErrorKind::kInvalidArgument, vocab.place, "[", id,
                    "] must be a list of a token and its score");
      tokens_.set(static_cast<int64_t>(id), *token, false, vocab.place);
    }
    return;
  }
  tokens_.read_object(vocab);
}

/// The model's ids for those added tokens that it has.
std::unordered_map<std::string_view, int64_t> TokenReader::ids_of_added_tokens() const {
  std::unordered_map<std::string_view, int64_t> ids;
  const JsonField added = root_.member("added_tokens");
  for (size_t i = 0; i < added.array().size(); ++i) ids.emplace(added.element(i).member("content").string(), -1);
  const JsonField vocab = root_.member("model").member("vocab");
  const auto note = [&](const std::string& token, int64_t id) {
    if (const auto found = ids.find(token); found != ids.end()) found->second = id;
  };
  if (const Json::Array* list = vocab.value->as_array()) {
    for (size_t id = 0; id < list->size(); ++id) note(*(*list)[id].as_array()->front().as_string(), id);
  } else {
    for (const auto& [token, id] : vocab.object()) note(token, *id.as_int());
  }
  return ids;
}

/// The library ignores the ids that the file gives: a token that the model has keeps the model's id, another one gets
/// the next free id behind the model's number of tokens.
/// Source: tokenizers/src/tokenizer/added_vocabulary.rs, add_tokens.
void TokenReader::read_added_tokens() {
  const JsonField added = root_.member("added_tokens");
  if (!added.present()) return;
  const ContentNormalizer normalizer(root_.member("normalizer"));
  std::unordered_map<std::string_view, int64_t> ids = ids_of_added_tokens();
  const Json* vocab = root_.member("model").member("vocab").value;
  const auto* list = vocab->as_array();
  auto next_id = static_cast<int64_t>(list != nullptr ? list->size() : vocab->as_object()->size());
  for (size_t i = 0; i < added.array().size(); ++i) {
    const JsonField token = added.element(i);
    const std::string& content = token.member("content").string();
    if (content.empty()) continue;
    int64_t& id = ids[content];
    if (id < 0) id = next_id++;
    const bool special = token.member("special").boolean();
    const bool normalized = token.member("normalized").boolean();
    tokens_.set(id, normalized ? normalizer.normalized(content) : content, special, added.place);
  }
}

}  // namespace

TokenizerFiles parse_tokenizer_json(std::string_view text, const std::string& path) {
  const JsonFile file(text, path);
  std::vector<DecodeStep> steps = read_decoder(file.root().member("decoder"));
  TokenReader reader(file, take_static_steps(steps));
  reader.read_model();
  reader.read_added_tokens();
  return {.tokens = std::move(reader).take(), .steps = std::move(steps)};
}

}  // namespace quire
