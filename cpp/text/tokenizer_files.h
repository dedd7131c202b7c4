#pragma once

#include <string>
#include <vector>

#include "text/decode_steps.h"
#include "text/token_table.h"

namespace quire {

/// What a tokenizer's files say about decoding.
struct TokenizerFiles {
  TokenTable tokens;
  std::vector<DecodeStep> steps;
};

/// Read a `tokenizers` file. Decodes as that library does, with one difference: a special token is left out by
/// skip_special_tokens also where the normalizer changes its text (tokenizers 0.23 keeps such a token).
/// Raises: kInvalidArgument naming file and field; kUnsupported naming a decoder that is not known.
TokenizerFiles read_tokenizer_json(const std::string& path);

/// Read a SentencePiece model, and the added tokens that the files beside it (tokenizer_config.json or
/// added_tokens.json) list. Raises: as above.
TokenizerFiles read_sentencepiece_model(const std::string& folder);

}  // namespace quire
