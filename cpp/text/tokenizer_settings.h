#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace quire {

/// A token that was added to a vocabulary after its training.
struct AddedToken {
  int64_t id = 0;  ///< not negative
  std::string content;
  bool special = false;
};

/// What a model folder says about its tokenizer beside the vocabulary itself.
struct TokenizerSettings {
  /// `tokenizer_class` of tokenizer_config.json without its ending Fast; empty if the file does not say.
  std::string tokenizer_class;
  /// `added_tokens_decoder` of tokenizer_config.json or, without it, added_tokens.json.
  std::vector<AddedToken> added;
  /// What fields like `eos_token` of tokenizer_config.json and special_tokens_map.json name.
  std::set<std::string> special_names;
};

/// All of the files are optional. Raises: kInvalidArgument naming file and field.
TokenizerSettings read_tokenizer_settings(const std::string& folder);

}  // namespace quire
