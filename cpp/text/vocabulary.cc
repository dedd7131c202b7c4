#include "quire/vocabulary.h"

#include <filesystem>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/mapped_file.h"
#include "text/tokenizer_class.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

class TableDetokenizer final : public Detokenizer {
 public:
  TableDetokenizer(const TokenTable& tokens, const Pipeline& steps, bool skip_special_tokens)
      : tokens_(tokens), steps_(steps), skip_special_tokens_(skip_special_tokens) {}

  void append(int32_t id, std::string& out) override {
    Piece piece = tokens_.piece(id);
    if (piece.kind == TokenKind::kNone) return;
    if (skip_special_tokens_ && tokens_.is_special(id)) {
      // A control piece shows no text in SentencePiece, but it still stands between its neighbours.
      if (piece.kind != TokenKind::kControl) return;
      piece.text = {};
    }
    steps_.push(piece, out);
  }

  std::string pending() const override {
    std::string out;
    if (steps_.held_text() == HeldText::kNone) return out;
    Pipeline copy = steps_;
    copy.finish(out);
    return out;
  }

  bool holds_characters() const override { return steps_.held_text() == HeldText::kCharacters; }

  void finish(std::string& out) override { steps_.finish(out); }

  void end_context() {
    std::string dropped;
    steps_.end_context(dropped);
  }

 private:
  const TokenTable& tokens_;
  Pipeline steps_;
  bool skip_special_tokens_;
};

class TableVocabulary final : public Vocabulary {
 public:
  explicit TableVocabulary(TokenizerFiles files) : tokens_(std::move(files.tokens)), steps_(std::move(files.steps)) {}

  int32_t size() const override { return tokens_.size(); }
  bool is_special(int32_t id) const override { return tokens_.is_special(id); }

  std::string token_text(int32_t id) const override {
    TableDetokenizer text = behind_a_letter();
    std::string out;
    text.append(id, out);
    text.finish(out);
    return out;
  }

  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const override {
    TableDetokenizer text(tokens_, steps_, skip_special_tokens);
    std::string out;
    for (const int32_t id : ids) text.append(id, out);
    text.finish(out);
    return out;
  }

  std::unique_ptr<Detokenizer> detokenizer(std::span<const int32_t> context, bool skip_special_tokens) const override {
    auto text = std::make_unique<TableDetokenizer>(tokens_, steps_, skip_special_tokens);
    std::string dropped;
    for (const int32_t id : context) {
      text->append(id, dropped);
      dropped.clear();
    }
    text->end_context();
    return text;
  }

 private:
  /// In the middle of text, where no rule for its beginning holds any more.
  TableDetokenizer behind_a_letter() const {
    Pipeline steps = steps_;
    std::string dropped;
    steps.push(Piece{.text = "x"}, dropped);
    TableDetokenizer text(tokens_, steps, false);
    text.end_context();
    return text;
  }

  TokenTable tokens_;
  Pipeline steps_;
};

bool is_file(const std::filesystem::path& path) {
  std::error_code ignored;
  return std::filesystem::is_regular_file(path, ignored);
}

/// The folder's .tiktoken file, or an empty path. Raises: kInvalidArgument if there are several.
std::filesystem::path tiktoken_file(const std::filesystem::path& folder) {
  std::filesystem::path found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.path().extension() != ".tiktoken" || !is_file(entry.path())) continue;
    QUIRE_REQUIRE(found.empty(), ErrorKind::kInvalidArgument, "[", folder.string(),
                  "] several tiktoken vocabularies: leave one");
    found = entry.path();
  }
  return found;
}

void require_vocab_json(const std::string& path, const std::string& folder, const TokenizerSettings& settings) {
  if (is_file(path)) return;
  const std::string_view file = vocabulary_file(settings.tokenizer_class);
  QUIRE_REQUIRE(file.empty(), ErrorKind::kNotFound, "[", folder, "] no vocabulary there: its tokenizer class ",
                settings.tokenizer_class, " reads ", file, ", put that file or a tokenizer.json into the folder");
  QUIRE_REQUIRE(false, ErrorKind::kNotFound, "[", folder,
                "] no tokenizer.json, tokenizer.model, .tiktoken file or vocab.json there: give the folder of the "
                "tokenizer, or do without text (tokenizer=..., skip_tokenizer_init=True)");
}

}  // namespace

std::shared_ptr<const Vocabulary> make_vocabulary(TokenizerFiles files) {
  return std::make_shared<TableVocabulary>(std::move(files));
}

std::shared_ptr<const Vocabulary> Vocabulary::from_folder(const std::string& folder) {
  const std::filesystem::path base(folder);
  if (is_file(base / "tokenizer.json")) {
    const std::string path = (base / "tokenizer.json").string();
    return make_vocabulary(parse_tokenizer_json(read_text_file(path), path));
  }
  const TokenizerSettings settings = read_tokenizer_settings(folder);
  if (const std::string path = tiktoken_file(base).string(); !path.empty()) {
    return make_vocabulary(parse_tiktoken(read_text_file(path), settings, path));
  }
  if (const std::string path = (base / "tokenizer.model").string(); is_file(path)) {
    const std::string bytes = read_text_file(path);
    if (is_tiktoken(bytes)) return make_vocabulary(parse_tiktoken(bytes, settings, path));
    return make_vocabulary(parse_sentencepiece_model(bytes, settings, path));
  }
  const std::string path = (base / "vocab.json").string();
  require_vocab_json(path, folder, settings);
  return make_vocabulary(parse_vocab_json(read_text_file(path), settings, path));
}

}  // namespace quire
