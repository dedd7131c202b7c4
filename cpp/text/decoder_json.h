#pragma once

#include <vector>

#include "text/decode_steps.h"
#include "text/json_fields.h"

namespace quire {

/// The steps of tokenizer.json's `decoder`, which may be missing.
/// Raises: kInvalidArgument naming the field; kUnsupported for WordPiece, CTC, regular expressions, and orders of
/// decoders that no known tokenizer has and that could not be followed token by token.
std::vector<DecodeStep> read_decoder(const JsonField& decoder);

}  // namespace quire
