#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/decode_steps.h"
#include "text/json_fields.h"
#include "text/token_table.h"

namespace quire {

/// Fills a token table with texts that have gone through the decoder's first steps already: those that treat every
/// piece alike need to be done only once.
class PreparedTokens {
 public:
  /// `path` names the file for error messages.
  PreparedTokens(const std::string& path, std::vector<DecodeStep> steps) : prepare_(std::move(steps)), tokens_(path) {}

  /// Raises: kInvalidArgument naming the place.
  void set(int64_t id, std::string_view text, bool special, const std::string& place);

  /// A vocabulary written as an object of ids by token. Raises: kInvalidArgument naming place and token.
  void read_object(const JsonField& vocab);

  void mark_special(int32_t id) { tokens_.mark_special(id); }
  TokenTable take() && { return std::move(tokens_); }

 private:
  Pipeline prepare_;
  TokenTable tokens_;
  std::string prepared_;
};

}  // namespace quire
