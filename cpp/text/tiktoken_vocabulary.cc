#include <array>
#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "text/tokenizer_class.h"
#include "text/tokenizer_files.h"

namespace quire {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Character -> its six bits, or -1.
constexpr std::array<int8_t, 256> make_base64_values() {
  std::array<int8_t, 256> values{};
  values.fill(-1);
  for (size_t i = 0; i < kBase64.size(); ++i) values[static_cast<uint8_t>(kBase64[i])] = static_cast<int8_t>(i);
  return values;
}

constexpr std::array<int8_t, 256> kBase64Values = make_base64_values();

/// The bytes that `text` stands for (RFC 4648, section 4, padding required); none if it is no base64, or empty.
std::optional<std::string> base64_decoded(std::string_view text) {
  if (text.empty() || text.size() % 4 != 0) return std::nullopt;
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  std::string bytes;
  uint32_t bits = 0;
  for (size_t i = 0; i < text.size() - padding; ++i) {
    const int8_t value = kBase64Values[static_cast<uint8_t>(text[i])];
    if (value < 0) return std::nullopt;
    bits = bits << 6 | static_cast<uint32_t>(value);
    if (i % 4 != 0) bytes.push_back(static_cast<char>(bits >> (6 - i % 4 * 2)));
  }
  return bytes;
}

/// Cuts the next line off `text`, without its end.
std::string_view take_line(std::string_view& text) {
  const size_t end = std::min(text.find('\n'), text.size());
  std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

struct RankedToken {
  std::string bytes;
  int64_t rank = 0;
};

/// A line is a token in base64, a space, and its rank, which is its id.
std::optional<RankedToken> parse_line(std::string_view line) {
  const size_t space = line.find(' ');
  if (space == std::string_view::npos) return std::nullopt;
  const std::string_view digits = line.substr(space + 1);
  RankedToken token;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), token.rank);
  if (error != std::errc() || end != digits.data() + digits.size()) return std::nullopt;
  std::optional<std::string> bytes = base64_decoded(line.substr(0, space));
  if (!bytes) return std::nullopt;
  token.bytes = std::move(*bytes);
  return token;
}

}  // namespace

bool is_tiktoken(std::string_view bytes) {
  return parse_line(take_line(bytes)).has_value();
}

TokenizerFiles parse_tiktoken(std::string_view text, TokenizerSettings settings, const std::string& path) {
  TokenTable tokens(path);
  for (int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = take_line(text);
    if (line.empty()) continue;
    const std::optional<RankedToken> token = parse_line(line);
    QUIRE_REQUIRE(token && token->rank >= 0 && token->rank <= TokenTable::kMaxId, ErrorKind::kInvalidArgument, "[",
                  path, "] line ", number, " must be a token in base64 and its rank: got=", in_quotes(line));
    QUIRE_REQUIRE(!tokens.has(static_cast<int32_t>(token->rank)), ErrorKind::kInvalidArgument, "[", path, "] line ",
                  number, " gives a second token the rank ", token->rank);
    tokens.set(token->rank, {.text = token->bytes}, false);
  }
  QUIRE_REQUIRE(tokens.size() > 0, ErrorKind::kInvalidArgument, "[", path, "] has no tokens");
  // Early folders of GLM-4 name the class of its predecessors.
  if (settings.tokenizer_class == "ChatGLMTokenizer") settings.tokenizer_class = "ChatGLM4Tokenizer";
  for (const AddedToken& token : all_added_tokens(settings, tokens.size())) {
    tokens.set(token.id, {.text = token.content}, token.special);
  }
  return {.tokens = std::move(tokens), .steps = {LossyUtf8Step{}}};
}

}  // namespace quire
