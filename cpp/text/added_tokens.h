#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire {

/// A token that was added to a SentencePiece model after its training.
struct AddedToken {
  int64_t id = 0;  ///< not negative
  std::string content;
  bool special = false;
};

/// The added tokens that a model folder lists: `added_tokens_decoder` of tokenizer_config.json or, without it,
/// added_tokens.json, whose tokens are special if tokenizer_config.json or special_tokens_map.json names them so. None
/// without these files.
/// Raises: kInvalidArgument naming file and field.
std::vector<AddedToken> read_added_tokens(const std::string& folder);

}  // namespace quire
