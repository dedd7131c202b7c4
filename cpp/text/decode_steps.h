#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/token_table.h"

namespace quire {

class Pipeline;

/// Where a step sends what it makes of its input: through the steps behind it into `out`.
class NextSteps {
 public:
  NextSteps(Pipeline& pipeline, size_t first, std::string& out) : pipeline_(pipeline), first_(first), out_(out) {}
  void push(const Piece& piece) const;
  void push(std::string_view text) const { push(Piece{.text = text}); }

 private:
  Pipeline& pipeline_;
  size_t first_;
  std::string& out_;
};

// The steps of a decoder, each with the state it has while a sequence goes through it:
//   push         takes one piece
//   finish       the sequence is over
//   end_context  the prompt is over: what comes out from here on belongs to the output
//   held_text    what finish would make text of
// Most are the decoders of the `tokenizers` library (tokenizers/src/decoders). They work on a list of pieces, one per
// token, that are joined at the end; behind Fuse or ByteLevel the list is a single piece, which arrives here in parts
// ("fused").

enum class HeldText {
  kNone,
  kBytes,       ///< a run of bytes that ends inside a character
  kCharacters,  ///< whole characters
};

/// A step that keeps nothing back.
struct ImmediateStep {
  void finish(const NextSteps&) {}
  void end_context(const NextSteps&) {}
  HeldText held_text() const { return HeldText::kNone; }
};

/// Every occurrence of `pattern` in a piece becomes `content`.
struct ReplaceStep : ImmediateStep {
  std::string pattern;
  std::string content;

  void push(const Piece& piece, const NextSteps& next);
};

/// Drops up to `start` times `content` (one character) at a piece's beginning and up to `stop` times at its end.
struct StripStep : ImmediateStep {
  std::string content;
  uint64_t start = 0;
  uint64_t stop = 0;

  void push(const Piece& piece, const NextSteps& next);
};

/// The same on fused text.
struct FusedStripStep {
  std::string content;
  uint64_t start = 0;
  uint64_t stop = 0;
  std::string held;  ///< `content` up to `stop` times

  void push(const Piece& piece, const NextSteps& next);
  void finish(const NextSteps&) { held.clear(); }
  void end_context(const NextSteps&) {}
  HeldText held_text() const { return HeldText::kNone; }
};

/// `replacement` (one character) becomes a space, or nothing in the first piece if `drops_first`.
struct MetaspaceStep : ImmediateStep {
  std::string replacement;
  bool drops_first = true;
  bool fused = false;
  bool first = true;

  void push(const Piece& piece, const NextSteps& next);
};

/// A space between pieces: what `tokenizers` does where there is no decoder.
struct JoinStep : ImmediateStep {
  bool first = true;

  void push(const Piece& piece, const NextSteps& next);
};

/// BPEDecoder: `suffix` becomes a space, or nothing in the last piece.
struct SuffixStep {
  std::string suffix;
  std::string if_followed;  ///< rest of the last piece, should another one come
  std::string if_last;      ///< and should none come

  void push(const Piece& piece, const NextSteps& next);
  void finish(const NextSteps& next);
  void end_context(const NextSteps& next);
  HeldText held_text() const { return if_last.empty() ? HeldText::kNone : HeldText::kCharacters; }
};

/// ByteFallback: a run of pieces that look like `<0x41>` becomes one piece if all of it is UTF-8, else one U+FFFD per
/// byte.
struct ByteRunStep {
  std::string run;
  size_t num_whole = 0;    ///< bytes of the run known to be whole characters
  size_t num_context = 0;  ///< bytes of the run that belong to the context
  bool broken = false;     ///< the run is no UTF-8 whatever follows; nothing of it is kept any more

  void push(const Piece& piece, const NextSteps& next);
  void finish(const NextSteps& next);
  void end_context(const NextSteps& next);
  HeldText held_text() const {
    if (run.empty()) return HeldText::kNone;
    return num_whole == run.size() ? HeldText::kCharacters : HeldText::kBytes;
  }
};

/// ByteLevel, first half: GPT-2's printable stand-ins become bytes; a piece with any other character stays as it is.
/// Source: openai/gpt-2:src/encoder.py, bytes_to_unicode.
struct ByteMapStep : ImmediateStep {
  void push(const Piece& piece, const NextSteps& next);
};

/// ByteLevel, second half: bytes become text; every longest run of bytes that could have begun a character becomes one
/// U+FFFD.
struct LossyUtf8Step {
  std::string held;  ///< beginning of a character
  bool held_in_context = false;

  void push(const Piece& piece, const NextSteps& next);
  void finish(const NextSteps& next);
  void end_context(const NextSteps& next);
  HeldText held_text() const { return held.empty() ? HeldText::kNone : HeldText::kBytes; }
};

/// All of SentencePieceProcessor::Decode (google/sentencepiece:src/sentencepiece_processor.cc): words' spaces, of which
/// the first is dropped, and byte pieces, each of which becomes a U+FFFD where it is part of no character.
struct SentencePieceStep {
  bool drops_first_space = true;  ///< add_dummy_prefix or remove_extra_whitespaces
  bool drops_all_first = true;    ///< remove_extra_whitespaces
  bool at_start = true;
  bool dropped_space = false;
  bool any_text = false;
  std::string held;        ///< beginning of a character
  size_t num_context = 0;  ///< bytes of it that belong to the context

  void push(const Piece& piece, const NextSteps& next);
  void finish(const NextSteps& next);
  void end_context(const NextSteps& next);
  HeldText held_text() const { return held.empty() ? HeldText::kNone : HeldText::kBytes; }

 private:
  void push_bytes(std::string_view bytes, const NextSteps& next);
  void push_invalid_byte(const NextSteps& next);
};

using DecodeStep = std::variant<ReplaceStep, StripStep, FusedStripStep, MetaspaceStep, JoinStep, SuffixStep,
                                ByteRunStep, ByteMapStep, LossyUtf8Step, SentencePieceStep>;

/// Steps in a row, with the state of one sequence. A copy is an independent sequence.
class Pipeline {
 public:
  Pipeline() = default;
  explicit Pipeline(std::vector<DecodeStep> steps) : steps_(std::move(steps)) {}

  void push(const Piece& piece, std::string& out) { push_from(0, piece, out); }
  void finish(std::string& out);
  /// What is still held back may be changed by the output and then belongs to it; the rest goes to `out`.
  void end_context(std::string& out);
  HeldText held_text() const;

 private:
  friend class NextSteps;
  void push_from(size_t index, const Piece& piece, std::string& out);

  std::vector<DecodeStep> steps_;
};

inline void NextSteps::push(const Piece& piece) const {
  pipeline_.push_from(first_, piece, out_);
}

}  // namespace quire
