#include <string_view>
#include <utility>
#include <vector>

#include "core/check.h"
#include "core/quote.h"
#include "text/protobuf_reader.h"
#include "text/tokenizer_class.h"
#include "text/tokenizer_files.h"
#include "text/utf8.h"

namespace quire {
namespace {

/// What sentencepiece_model.proto calls the fields that decoding needs, with their defaults.
struct ModelProto {
  enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

  std::string unknown_surface = " \xe2\x81\x87 ";  ///< trainer_spec.unk_surface
  bool add_dummy_prefix = true;                    ///< normalizer_spec
  bool remove_extra_whitespaces = true;
};

constexpr std::string_view kSpaceSymbol = "\xe2\x96\x81";  // U+2581

class ModelReader {
 public:
  explicit ModelReader(const std::string& path) : place_(path), tokens_(path) {}

  TokenizerFiles read(std::string_view message, const TokenizerSettings& settings);

 private:
  void read_settings(std::string_view message);
  void read_trainer(std::string_view message);
  void read_normalizer(std::string_view message);
  void refuse_denormalizer(std::string_view message);
  void read_piece(std::string_view message);
  void set(std::string_view text, uint64_t type);
  void add(const AddedToken& token);

  std::string place_;
  TokenTable tokens_;
  ModelProto proto_;
  std::vector<std::string_view> pieces_;  ///< as they stand in the file
};

void ModelReader::read_trainer(std::string_view message) {
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    if (field.number == 44 && field.is_bytes) proto_.unknown_surface = field.bytes;
  }
  QUIRE_REQUIRE(is_utf8(proto_.unknown_surface), ErrorKind::kInvalidArgument, "[", place_,
                "] trainer_spec.unk_surface is not UTF-8: got=", in_quotes(proto_.unknown_surface));
}

void ModelReader::read_normalizer(std::string_view message) {
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    if (field.number == 3 && !field.is_bytes) proto_.add_dummy_prefix = field.value != 0;
    if (field.number == 4 && !field.is_bytes) proto_.remove_extra_whitespaces = field.value != 0;
  }
}

void ModelReader::refuse_denormalizer(std::string_view message) {
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    QUIRE_REQUIRE(field.number != 2 || !field.is_bytes || field.bytes.empty(), ErrorKind::kUnsupported, "[", place_,
                  "] denormalizer_spec: rules for decoded text are not supported");
  }
}

/// The byte of a piece like `<0x41>`, written just so by SentencePiece.
std::string byte_of_piece(std::string_view piece, const std::string& place) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  const bool framed = piece.size() == 6 && piece.starts_with("<0x") && piece[5] == '>';
  const size_t high = framed ? digits.find(piece[3]) : std::string_view::npos;
  const size_t low = framed ? digits.find(piece[4]) : std::string_view::npos;
  QUIRE_REQUIRE(high != std::string_view::npos && low != std::string_view::npos, ErrorKind::kInvalidArgument, "[",
                place, "] a byte piece must look like <0x41>: got=", in_quotes(piece));
  return std::string(1, static_cast<char>(high * 16 + low));
}

void ModelReader::read_piece(std::string_view message) {
  std::string_view text;
  uint64_t type = ModelProto::kNormal;
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    if (field.number == 1 && field.is_bytes) text = field.bytes;
    if (field.number == 3 && !field.is_bytes) type = field.value;
  }
  QUIRE_REQUIRE(!text.empty() && is_utf8(text), ErrorKind::kInvalidArgument, "[", place_,
                "] a piece must be text and not empty: id=", tokens_.size(), ", got=", in_quotes(text));
  set(text, type);
  pieces_.push_back(text);
}

void ModelReader::set(std::string_view text, uint64_t type) {
  const int64_t id = tokens_.size();
  if (type == ModelProto::kByte) {
    return tokens_.set(id, {.text = byte_of_piece(text, place_), .kind = TokenKind::kByte}, false);
  }
  if (type == ModelProto::kControl) return tokens_.set(id, {.text = text, .kind = TokenKind::kControl}, true);
  if (type == ModelProto::kUnknown) {
    return tokens_.set(id, {.text = proto_.unknown_surface, .kind = TokenKind::kLiteral}, false);
  }
  std::string shown;
  const bool begins_word = text.starts_with(kSpaceSymbol);
  for (size_t found; (found = text.find(kSpaceSymbol)) != std::string_view::npos;) {
    shown.append(text.substr(0, found)).push_back(' ');
    text.remove_prefix(found + kSpaceSymbol.size());
  }
  shown.append(text);
  tokens_.set(id, {.text = shown, .begins_word = begins_word}, false);
}

/// An added token replaces a piece of another text, as InternLM2 does with its unused ones. For the piece itself only
/// the mark is taken, and not for <unk>, which SentencePiece always shows.
void ModelReader::add(const AddedToken& token) {
  const bool is_piece = token.id < static_cast<int64_t>(pieces_.size()) && pieces_[token.id] == token.content;
  if (!is_piece) return tokens_.set(token.id, {.text = token.content, .kind = TokenKind::kLiteral}, token.special);
  const auto id = static_cast<int32_t>(token.id);
  if (token.special && tokens_.piece(id).kind == TokenKind::kText) tokens_.mark_special(id);
}

/// Pieces come before the settings in the file, and unk_surface is needed for a piece: hence two walks.
void ModelReader::read_settings(std::string_view message) {
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    if (!field.is_bytes) continue;
    if (field.number == 2) read_trainer(field.bytes);
    if (field.number == 3) read_normalizer(field.bytes);
    if (field.number == 5) refuse_denormalizer(field.bytes);
  }
}

TokenizerFiles ModelReader::read(std::string_view message, const TokenizerSettings& settings) {
  read_settings(message);
  ProtobufReader reader(message, place_);
  for (ProtobufField field; reader.next(field);) {
    if (field.number == 1 && field.is_bytes) read_piece(field.bytes);
  }
  QUIRE_REQUIRE(tokens_.size() > 0, ErrorKind::kInvalidArgument, "[", place_,
                "] not a SentencePiece model: it has no pieces");
  for (const AddedToken& token : all_added_tokens(settings, tokens_.size())) add(token);
  SentencePieceStep step;
  step.drops_first_space = proto_.add_dummy_prefix || proto_.remove_extra_whitespaces;
  step.drops_all_first = proto_.remove_extra_whitespaces;
  return {.tokens = std::move(tokens_), .steps = {std::move(step)}};
}

}  // namespace

TokenizerFiles parse_sentencepiece_model(std::string_view bytes, const TokenizerSettings& settings,
                                         const std::string& path) {
  return ModelReader(path).read(bytes, settings);
}

}  // namespace quire
