#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quire/vocabulary.h"
#include "text/decode_steps.h"
#include "text/token_table.h"
#include "text/tokenizer_settings.h"

namespace quire {

/// What a tokenizer's files say about decoding.
struct TokenizerFiles {
  TokenTable tokens;
  std::vector<DecodeStep> steps;
};

/// Read the text of a `tokenizer.json`. Decodes as `tokenizers` does, with one difference: a special token is left out
/// by skip_special_tokens also where the normalizer changes its text (version 0.23 of the library keeps such a token).
/// `path` is for error messages. Raises: kInvalidArgument naming file and field; kUnsupported naming a decoder that is
/// not known.
TokenizerFiles parse_tokenizer_json(std::string_view text, const std::string& path);

/// Read a SentencePiece model and the tokens that were added to it. Raises: as above.
TokenizerFiles parse_sentencepiece_model(std::string_view bytes, const TokenizerSettings& settings,
                                         const std::string& path);

/// Whether a file looks like a tiktoken vocabulary; GLM-4 has one under the name tokenizer.model.
bool is_tiktoken(std::string_view bytes);

/// Read a tiktoken vocabulary: lines of a token in base64 and its rank. Raises: as above, naming the line.
TokenizerFiles parse_tiktoken(std::string_view text, TokenizerSettings settings, const std::string& path);

/// Read GPT-2's vocab.json; its merges.txt is not needed for decoding. Raises: as above.
TokenizerFiles parse_vocab_json(std::string_view text, const TokenizerSettings& settings, const std::string& path);

std::shared_ptr<const Vocabulary> make_vocabulary(TokenizerFiles files);

}  // namespace quire
