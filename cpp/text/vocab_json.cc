#include <string_view>
#include <utility>

#include "text/prepared_tokens.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

/// Ends a text in the vocabularies of this format, whether or not a file says so.
constexpr std::string_view kEndOfText = "<|endoftext|>";

}  // namespace

TokenizerFiles parse_vocab_json(std::string_view text, const TokenizerSettings& settings, const std::string& path) {
  const JsonFile file(text, path);
  const JsonField vocab = file.root();
  PreparedTokens tokens(path, {ByteMapStep{}});
  tokens.read_object(vocab);
  for (const auto& [token, id] : vocab.object()) {
    if (token == kEndOfText || settings.special_names.contains(token)) {
      tokens.mark_special(static_cast<int32_t>(*id.as_int()));
    }
  }
  for (const AddedToken& token : settings.added) {
    tokens.set(token.id, token.content, token.special, vocab.place);
  }
  return {.tokens = std::move(tokens).take(), .steps = {LossyUtf8Step{}}};
}

}  // namespace quire
