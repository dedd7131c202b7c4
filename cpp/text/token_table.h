#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

enum class TokenKind : uint8_t {
  kNone,     ///< no token has this id
  kText,     ///< `text` is the token's, as the decoder's steps take it
  kLiteral,  ///< SentencePiece: `text` is shown as it is
  kByte,     ///< SentencePiece: `text` is one byte
  kControl,  ///< SentencePiece: shown as `text` only together with special tokens
};

/// One token on its way through the decoder's steps.
struct Piece {
  std::string_view text;
  TokenKind kind = TokenKind::kText;
  /// SentencePiece: `text` begins with a space that stands for the beginning of a word.
  bool begins_word = false;
};

/// Every token's text, by id, in one string.
class TokenTable {
 public:
  /// Ids above this one are refused, so that a small file cannot ask for a large table.
  static constexpr int64_t kMaxId = (1 << 22) - 1;

  /// `place` names the file for error messages.
  explicit TokenTable(std::string place) : place_(std::move(place)) {}

  /// Define or replace a token.
  /// Raises: kInvalidArgument for an id outside [0, kMaxId] or text beyond the limits.
  void set(int64_t id, const Piece& piece, bool special);

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  bool has(int32_t id) const { return in_range(id) && entries_[id].kind != TokenKind::kNone; }
  bool is_special(int32_t id) const { return in_range(id) && entries_[id].special; }

  /// kind is kNone for ids without a token.
  Piece piece(int32_t id) const;

  void mark_special(int32_t id) { entries_[id].special = true; }

 private:
  struct Entry {
    uint32_t offset = 0;
    uint32_t length = 0;
    TokenKind kind = TokenKind::kNone;
    bool special = false;
    bool begins_word = false;
  };

  bool in_range(int32_t id) const { return id >= 0 && id < size(); }

  std::string place_;
  std::string text_;
  std::vector<Entry> entries_;
};

}  // namespace quire
