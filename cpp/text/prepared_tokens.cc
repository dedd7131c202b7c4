#include "text/prepared_tokens.h"

#include "core/check.h"
#include "core/quote.h"

namespace quire {
namespace {

constexpr size_t kMaxTokenBytes = 1 << 16;

}  // namespace

void PreparedTokens::set(int64_t id, std::string_view text, bool special, const std::string& place) {
  QUIRE_REQUIRE(text.size() <= kMaxTokenBytes, ErrorKind::kInvalidArgument, place, " has too long a token: id=", id,
                ", expected=at most ", kMaxTokenBytes, " bytes");
  prepared_.clear();
  prepare_.push(Piece{.text = text}, prepared_);
  tokens_.set(id, Piece{.text = prepared_}, special);
}

void PreparedTokens::read_object(const JsonField& vocab) {
  for (const auto& [token, value] : vocab.object()) {
    const int64_t* id = value.as_int();
    QUIRE_REQUIRE(id != nullptr && *id >= 0 && *id <= TokenTable::kMaxId, ErrorKind::kInvalidArgument, vocab.place,
                  " has a token whose id is no integer in [0, ", TokenTable::kMaxId, "]: token=", in_quotes(token));
    QUIRE_REQUIRE(!tokens_.has(static_cast<int32_t>(*id)), ErrorKind::kInvalidArgument, vocab.place,
                  " has two tokens with one id: token=", in_quotes(token), ", id=", *id);
    set(*id, token, false, vocab.place);
  }
}

}  // namespace quire
