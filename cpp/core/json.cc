#include "core/json.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <iterator>
#include <numeric>

#include "core/check.h"
#include "core/quote.h"

namespace quire {
namespace {

/// Recursive descent over the bytes of one document. Every byte is looked at a bounded number of times.
class Parser {
 public:
  Parser(std::string_view text, std::string_view where, const JsonLimits& limits)
      : text_(text), where_(where), limits_(limits) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    require(at_ == text_.size(), "more text behind the value");
    return value;
  }

 private:
  [[noreturn]] void fail(size_t offset, std::string_view problem) const {
    const std::string_view before = text_.substr(0, offset);
    const auto line = std::count(before.begin(), before.end(), '\n') + 1;
    const size_t line_start = before.find_last_of('\n') == std::string_view::npos ? 0 : before.find_last_of('\n') + 1;
    throw Error(ErrorKind::kInvalidArgument, detail::join_message("[", where_, ":", line, ":", offset - line_start + 1,
                                                                  "] not valid JSON: ", problem));
  }

  void require(bool condition, std::string_view problem) const {
    if (!condition) [[unlikely]]
      fail(at_, problem);
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\r' || text_[at_] == '\t')) {
      ++at_;
    }
  }

  /// The next character that is not white space, not taken.
  char peek() {
    skip_space();
    require(at_ < text_.size(), "the text ends too early");
    return text_[at_];
  }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  Json parse_value(int depth) {
    switch (peek()) {
      case '{': return Json(parse_object(depth + 1));
      case '[': return Json(parse_array(depth + 1));
      case '"': return Json(parse_string());
      case 't': return parse_word("true", Json(true));
      case 'f': return parse_word("false", Json(false));
      case 'n': return parse_word("null", Json());
      default: return parse_number();
    }
  }

  Json parse_word(std::string_view word, Json value) {
    require(text_.substr(at_, word.size()) == word, "expected a value");
    at_ += word.size();
    return value;
  }

  // Items and members are collected on stacks that all levels share, and then moved to a list of just their size: one
  // allocation per list instead of one per doubling.
  template <typename T>
  static std::vector<T> take_from(std::vector<T>& stack, size_t first) {
    const auto begin = stack.begin() + static_cast<std::ptrdiff_t>(first);
    std::vector<T> result(std::make_move_iterator(begin), std::make_move_iterator(stack.end()));
    stack.erase(begin, stack.end());
    return result;
  }

  Json::Array parse_array(int depth) {
    require(depth <= limits_.max_depth, "nested too deeply");
    ++at_;
    if (take(']')) return {};
    const size_t first = items_.size();
    do {
      Json item = parse_value(depth);
      items_.push_back(std::move(item));
    } while (take(','));
    require(take(']'), "expected ',' or ']'");
    return take_from(items_, first);
  }

  Json::Object parse_object(int depth) {
    require(depth <= limits_.max_depth, "nested too deeply");
    ++at_;
    if (take('}')) return {};
    const size_t first = members_.size();
    do {
      require(peek() == '"', "expected a key in double quotes");
      const size_t key_offset = at_;
      std::string key = parse_string();
      require(take(':'), "expected ':'");
      Json value = parse_value(depth);
      members_.emplace_back(std::move(key), std::move(value));
      key_offsets_.push_back(key_offset);
    } while (take(','));
    require(take('}'), "expected ',' or '}'");
    refuse_duplicates(first);
    key_offsets_.resize(first);
    return take_from(members_, first);
  }

  /// Among the members from `first` on. Sorted, not hashed: n log n whatever keys a hostile file holds.
  void refuse_duplicates(size_t first) const {
    const auto key = [&](size_t index) -> const std::string& { return members_[index].first; };
    const size_t end = members_.size();
    constexpr size_t kFewMembers = 8;
    if (end - first <= kFewMembers) {
      for (size_t i = first; i < end; ++i) {
        for (size_t j = first; j < i; ++j) {
          if (key(i) == key(j)) fail(key_offsets_[i], "duplicate key " + in_quotes(key(i)));
        }
      }
      return;
    }
    std::vector<size_t> order(end - first);
    std::iota(order.begin(), order.end(), first);
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      const int compared = key(a).compare(key(b));
      return compared != 0 ? compared < 0 : a < b;
    });
    for (size_t i = 1; i < order.size(); ++i) {
      if (key(order[i]) == key(order[i - 1])) {
        fail(key_offsets_[order[i]], "duplicate key " + in_quotes(key(order[i])));
      }
    }
  }

  std::string parse_string() {
    ++at_;
    std::string result;
    for (;;) {
      // Plain ASCII in one piece; the rest character by character.
      const size_t start = at_;
      while (at_ < text_.size() && is_plain(text_[at_])) ++at_;
      result.append(text_, start, at_ - start);
      require(at_ < text_.size(), "a string does not end");
      const char next = text_[at_];
      if (next == '"') {
        ++at_;
        return result;
      }
      if (next == '\\') {
        parse_escape(result);
        continue;
      }
      require(static_cast<unsigned char>(next) >= 0x20, "a control character in a string");
      const int length = utf8_length(text_.substr(at_, 4));
      require(length > 0, "a string is not UTF-8");
      result.append(text_, at_, length);
      at_ += length;
    }
  }

  static bool is_plain(char byte) { return byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\'; }

  void parse_escape(std::string& result) {
    constexpr std::string_view kCodes = "\"\\/bfnrt";
    constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    require(at_ + 1 < text_.size(), "a string does not end");
    const char code = text_[at_ + 1];
    if (code == 'u') {
      append_utf8(parse_code_point(), result);
      return;
    }
    const size_t index = kCodes.find(code);
    require(index != std::string_view::npos, "unknown escape in a string");
    result += kValues[index];
    at_ += 2;
  }

  /// \uXXXX, or a surrogate pair of two.
  uint32_t parse_code_point() {
    const uint32_t first = parse_unit();
    if (first < 0xd800 || first > 0xdfff) return first;
    require(first < 0xdc00 && text_.substr(at_, 2) == "\\u", "half of a surrogate pair");
    const uint32_t second = parse_unit();
    require(second >= 0xdc00 && second <= 0xdfff, "half of a surrogate pair");
    return 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
  }

  uint32_t parse_unit() {
    const std::string_view digits = text_.substr(at_ + 2, 4);
    uint32_t unit = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), unit, 16);
    require(error == std::errc() && digits.size() == 4 && end == digits.data() + 4, "expected four hexadecimal digits");
    at_ += 6;
    return unit;
  }

  static void append_utf8(uint32_t code_point, std::string& result) {
    const auto continuation = [&](int shift) { result += static_cast<char>(0x80u | ((code_point >> shift) & 0x3fu)); };
    if (code_point < 0x80) {
      result += static_cast<char>(code_point);
      return;
    }
    if (code_point < 0x800) {
      result += static_cast<char>(0xc0u | (code_point >> 6));
    } else if (code_point < 0x10000) {
      result += static_cast<char>(0xe0u | (code_point >> 12));
      continuation(6);
    } else {
      result += static_cast<char>(0xf0u | (code_point >> 18));
      continuation(12);
      continuation(6);
    }
    continuation(0);
  }

  bool is_digit(size_t offset) const { return offset < text_.size() && text_[offset] >= '0' && text_[offset] <= '9'; }

  void skip_digits(size_t& end) const {
    require(is_digit(end), "expected a value");
    while (is_digit(end)) ++end;
  }

  Json parse_number() {
    size_t end = at_;
    if (text_[end] == '-') ++end;
    if (end < text_.size() && text_[end] == '0') {
      ++end;
      require(!is_digit(end), "a number begins with 0");
    } else {
      skip_digits(end);
    }
    bool whole = true;
    if (end < text_.size() && text_[end] == '.') {
      whole = false;
      skip_digits(++end);
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      whole = false;
      ++end;
      if (end < text_.size() && (text_[end] == '+' || text_[end] == '-')) ++end;
      skip_digits(end);
    }
    const char* const first = text_.data() + at_;
    const char* const last = text_.data() + end;
    int64_t integer = 0;
    double number = 0;
    if (whole && std::from_chars(first, last, integer).ec == std::errc()) {
      at_ = end;
      return Json(integer);
    }
    require(std::from_chars(first, last, number).ec == std::errc(), "a number does not fit in a double");
    at_ = end;
    return Json(number);
  }

  std::string_view text_;
  std::string_view where_;
  JsonLimits limits_;
  size_t at_ = 0;
  Json::Array items_;
  Json::Object members_;
  std::vector<size_t> key_offsets_;  ///< of members_, one each
};

}  // namespace

std::optional<double> Json::number() const {
  if (const int64_t* integer = as_int()) return static_cast<double>(*integer);
  if (const double* number = as_double()) return *number;
  return std::nullopt;
}

const Json* Json::find(std::string_view key) const {
  const Object* members = as_object();
  if (members == nullptr) return nullptr;
  for (const auto& [name, value] : *members) {
    if (name == key) return &value;
  }
  return nullptr;
}

std::string_view Json::type_name() const {
  constexpr std::string_view kNames[] = {"null", "bool", "integer", "number", "string", "array", "object"};
  return kNames[value_.index()];
}

Json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  return Parser(text, where, limits).document();
}

}  // namespace quire
