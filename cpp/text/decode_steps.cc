#include "text/decode_steps.h"

#include <algorithm>
#include <array>
#include <optional>

#include "text/utf8.h"

namespace quire {
namespace {

std::string replace_all(std::string_view text, std::string_view pattern, std::string_view content) {
  std::string result;
  for (size_t found; (found = text.find(pattern)) != std::string_view::npos;) {
    result.append(text.substr(0, found)).append(content);
    text.remove_prefix(found + pattern.size());
  }
  return result.append(text);
}

std::string repeat(std::string_view text, size_t count) {
  std::string result;
  for (size_t i = 0; i < count; ++i) result.append(text);
  return result;
}

/// Remove `affix` from the front of `text` up to `most` times; returns how often it was there.
uint64_t drop_front(std::string_view& text, std::string_view affix, uint64_t most) {
  uint64_t count = 0;
  for (; count < most && text.starts_with(affix); ++count) text.remove_prefix(affix.size());
  return count;
}

uint64_t drop_back(std::string_view& text, std::string_view affix, uint64_t most) {
  uint64_t count = 0;
  for (; count < most && text.ends_with(affix); ++count) text.remove_suffix(affix.size());
  return count;
}

/// The byte that a token like `<0x41>` stands for. A plus sign is a digit's sign to the library's parser.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  for (size_t i = token[3] == '+' ? 4 : 3; i < 5; ++i) {
    const char c = token[i];
    const bool digit = c >= '0' && c <= '9';
    const bool upper = c >= 'A' && c <= 'F';
    const bool lower = c >= 'a' && c <= 'f';
    if (!digit && !upper && !lower) return std::nullopt;
    value = value * 16 + static_cast<unsigned>(c - (digit ? '0' : upper ? 'A' - 10 : 'a' - 10));
  }
  return static_cast<char>(value);
}

/// Bytes that GPT-2 leaves as they are, the others get the characters from U+0100 on, in order.
bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || (byte >= 0xae && byte <= 0xff);
}

constexpr int kNumStandIns = 0x144;

/// Character -> byte, or -1.
std::array<int16_t, kNumStandIns> make_stand_ins() {
  std::array<int16_t, kNumStandIns> bytes;
  bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) bytes[stands_for_itself(byte) ? byte : next++] = static_cast<int16_t>(byte);
  return bytes;
}

/// The bytes that `text` stands for; none if one of its characters is no stand-in.
std::optional<std::string> mapped_bytes(std::string_view text) {
  static const std::array<int16_t, kNumStandIns> stand_ins = make_stand_ins();
  std::string bytes;
  while (!text.empty()) {
    const Utf8Scan scan = scan_utf8(text);
    if (scan.status != Utf8Status::kCharacter || scan.length > 2) return std::nullopt;
    const auto first = static_cast<unsigned char>(text[0]);
    const int character = scan.length == 1 ? first : (first & 0x1f) << 6 | (static_cast<unsigned char>(text[1]) & 0x3f);
    if (character >= kNumStandIns || stand_ins[character] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(stand_ins[character]));
    text.remove_prefix(scan.length);
  }
  return bytes;
}

}  // namespace

void ReplaceStep::push(const Piece& piece, const NextSteps& next) {
  next.push(replace_all(piece.text, pattern, content));
}

void StripStep::push(const Piece& piece, const NextSteps& next) {
  std::string_view text = piece.text;
  drop_front(text, content, start);
  drop_back(text, content, stop);
  next.push(text);
}

void FusedStripStep::push(const Piece& piece, const NextSteps& next) {
  std::string_view text = piece.text;
  start -= drop_front(text, content, start);
  if (text.empty()) return;
  start = 0;
  held.append(text);
  std::string_view certain = held;
  const uint64_t num_held = drop_back(certain, content, stop);
  next.push(certain);
  held = repeat(content, num_held);
}

void MetaspaceStep::push(const Piece& piece, const NextSteps& next) {
  next.push(replace_all(piece.text, replacement, first && drops_first ? "" : " "));
  first = fused;
}

void JoinStep::push(const Piece& piece, const NextSteps& next) {
  if (!first) next.push(" ");
  first = false;
  next.push(piece);
}

void SuffixStep::push(const Piece& piece, const NextSteps& next) {
  next.push(if_followed);
  if_followed = replace_all(piece.text, suffix, " ");
  if_last = replace_all(piece.text, suffix, "");
}

void SuffixStep::finish(const NextSteps& next) {
  next.push(if_last);
  if_followed.clear();
  if_last.clear();
}

void SuffixStep::end_context(const NextSteps& next) {
  const auto differs = std::mismatch(if_last.begin(), if_last.end(), if_followed.begin(), if_followed.end()).first;
  const auto common = static_cast<size_t>(differs - if_last.begin());
  next.push(std::string_view(if_last).substr(0, common));
  if_followed.erase(0, common);
  if_last.clear();
}

void ByteRunStep::push(const Piece& piece, const NextSteps& next) {
  const std::optional<char> byte = byte_of(piece.text);
  if (!byte) {
    finish(next);
    return next.push(piece);
  }
  if (broken) return next.push(kReplacementCharacter);
  run.push_back(*byte);
  const Utf8Scan scan = scan_utf8(std::string_view(run).substr(num_whole));
  if (scan.status == Utf8Status::kCharacter) num_whole = run.size();
  if (scan.status != Utf8Status::kInvalid) return;
  finish(next);
  broken = true;
}

void ByteRunStep::finish(const NextSteps& next) {
  if (num_whole == run.size()) {
    if (!run.empty()) next.push(run);
  } else {
    for (size_t i = num_context; i < run.size(); ++i) next.push(kReplacementCharacter);
  }
  *this = {};
}

void ByteRunStep::end_context(const NextSteps& next) {
  if (num_whole > 0) next.push(std::string_view(run).substr(0, num_whole));
  run.erase(0, num_whole);
  num_whole = 0;
  num_context = run.size();
  // Whatever becomes of these bytes, the steps behind are not at the beginning of the text any more.
  if (!run.empty()) next.push(kReplacementCharacter);
}

void ByteMapStep::push(const Piece& piece, const NextSteps& next) {
  const std::optional<std::string> bytes = mapped_bytes(piece.text);
  next.push(bytes ? *bytes : piece.text);
}

void LossyUtf8Step::push(const Piece& piece, const NextSteps& next) {
  held.append(piece.text);
  std::string_view rest = held;
  while (!rest.empty()) {
    const size_t whole = whole_utf8_prefix(rest);
    if (whole > 0) next.push(rest.substr(0, whole));
    rest.remove_prefix(whole);
    if (whole > 0) held_in_context = false;
    if (rest.empty()) break;
    const Utf8Scan scan = scan_utf8(rest);
    if (scan.status == Utf8Status::kIncomplete) break;
    if (!held_in_context) next.push(kReplacementCharacter);
    held_in_context = false;
    rest.remove_prefix(scan.length);
  }
  held = std::string(rest);
}

void LossyUtf8Step::end_context(const NextSteps& next) {
  held_in_context = !held.empty();
  if (held_in_context) next.push(kReplacementCharacter);  // as in ByteRunStep
}

void LossyUtf8Step::finish(const NextSteps& next) {
  if (!held.empty() && !held_in_context) next.push(kReplacementCharacter);
  *this = {};
}

void SentencePieceStep::push(const Piece& piece, const NextSteps& next) {
  if (piece.kind == TokenKind::kByte) return push_bytes(piece.text, next);
  finish(next);
  if (dropped_space || any_text) at_start = false;
  dropped_space = false;
  std::string_view text = piece.text;
  if (at_start && drops_first_space && piece.begins_word) {
    text.remove_prefix(1);
    dropped_space = !drops_all_first;
  }
  any_text |= !text.empty();
  next.push(text);
}

void SentencePieceStep::push_bytes(std::string_view bytes, const NextSteps& next) {
  held.append(bytes);
  any_text = true;
  while (!held.empty()) {
    const Utf8Scan scan = scan_utf8(held);
    if (scan.status == Utf8Status::kIncomplete) return;
    if (scan.status == Utf8Status::kInvalid) {
      push_invalid_byte(next);
      continue;
    }
    next.push(std::string_view(held).substr(0, scan.length));
    held.erase(0, scan.length);
    num_context = 0;
  }
}

void SentencePieceStep::push_invalid_byte(const NextSteps& next) {
  held.erase(0, 1);
  if (num_context == 0) return next.push(kReplacementCharacter);
  --num_context;
}

void SentencePieceStep::finish(const NextSteps& next) {
  while (!held.empty()) push_invalid_byte(next);
}

void SentencePieceStep::end_context(const NextSteps&) {
  num_context = held.size();
}

void Pipeline::push_from(size_t index, const Piece& piece, std::string& out) {
  if (index == steps_.size()) {
    out.append(piece.text);
    return;
  }
  const NextSteps next(*this, index + 1, out);
  std::visit([&](auto& step) { step.push(piece, next); }, steps_[index]);
}

void Pipeline::finish(std::string& out) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const NextSteps next(*this, i + 1, out);
    std::visit([&](auto& step) { step.finish(next); }, steps_[i]);
  }
}

void Pipeline::end_context(std::string& out) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    const NextSteps next(*this, i + 1, out);
    std::visit([&](auto& step) { step.end_context(next); }, steps_[i]);
  }
}

HeldText Pipeline::held_text() const {
  HeldText held = HeldText::kNone;
  for (const DecodeStep& step : steps_) {
    held = std::max(held, std::visit([](const auto& state) { return state.held_text(); }, step));
  }
  return held;
}

}  // namespace quire
