#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer_settings.h"

namespace quire {

/// The added tokens of a folder, and those special ones that its tokenizer class numbers itself, behind the vocabulary,
/// as far as the folder does not list them.
/// `first_id` is the id behind the vocabulary's last one.
std::vector<AddedToken> all_added_tokens(const TokenizerSettings& settings, int64_t first_id);

/// The vocabulary file that a tokenizer class reads, where it is none of the usual ones; else empty.
std::string_view vocabulary_file(std::string_view tokenizer_class);

}  // namespace quire
