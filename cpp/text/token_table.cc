#include "text/token_table.h"

#include "core/check.h"

namespace quire {
namespace {

constexpr size_t kMaxTokenBytes = 1 << 16;
constexpr size_t kMaxTextBytes = 1 << 28;

}  // namespace

void TokenTable::set(int64_t id, const Piece& piece, bool special) {
  QUIRE_REQUIRE(id >= 0 && id <= kMaxId, ErrorKind::kInvalidArgument, "[", place_,
                "] a token's id is out of range: expected=[0, ", kMaxId, "], got=", id);
  QUIRE_REQUIRE(piece.text.size() <= kMaxTokenBytes, ErrorKind::kInvalidArgument, "[", place_,
                "] a token is too long: id=", id, ", expected=at most ", kMaxTokenBytes,
                " bytes, got=", piece.text.size());
  QUIRE_REQUIRE(text_.size() + piece.text.size() <= kMaxTextBytes, ErrorKind::kInvalidArgument, "[", place_,
                "] the tokens' text is too long in all: expected=at most ", kMaxTextBytes, " bytes");
  if (id >= size()) entries_.resize(id + 1);
  entries_[id] = {.offset = static_cast<uint32_t>(text_.size()),
                  .length = static_cast<uint32_t>(piece.text.size()),
                  .kind = piece.kind,
                  .special = special,
                  .begins_word = piece.begins_word};
  text_.append(piece.text);
}

Piece TokenTable::piece(int32_t id) const {
  if (!in_range(id)) return {.kind = TokenKind::kNone};
  const Entry& entry = entries_[id];
  return {.text = std::string_view(text_).substr(entry.offset, entry.length),
          .kind = entry.kind,
          .begins_word = entry.begins_word};
}

}  // namespace quire
