#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace quire {

/// Text of a sequence that grows token by token. Whatever has been appended to `out` stays true: it is the beginning of
/// the final text whatever tokens follow, so a character whose bytes are spread over tokens comes out when it is whole.
/// With `tokenizers`' ByteFallback a run of byte tokens comes out at its end, because one wrong byte turns all of it
/// into replacement characters. Thread safety: none.
class Detokenizer {
 public:
  virtual ~Detokenizer() = default;

  /// Add a token and append to `out` what has become final. Costs time in proportion to the token's bytes. An id
  /// without a token adds nothing.
  virtual void append(int32_t id, std::string& out) = 0;

  /// What finish() would append now.
  virtual std::string pending() const = 0;

  /// Whether text is held back that consists of whole characters, rather than a character's first bytes.
  virtual bool holds_characters() const = 0;

  /// End the sequence: append the rest to `out`. Everything appended together equals Vocabulary::decode of all ids.
  virtual void finish(std::string& out) = 0;
};

/// Token id -> text: what outputs and stop strings need of a tokenizer. Immutable and safe to share between threads.
///
/// Encoding text into ids is the tokenizer libraries' work and happens outside the engine.
class Vocabulary {
 public:
  /// Read a model folder's vocabulary: the first that is there of `tokenizer.json`, a `.tiktoken` file,
  /// `tokenizer.model` (SentencePiece's or tiktoken's format) and `vocab.json` (GPT-2's).
  /// Raises: kNotFound with none of them, kInvalidArgument naming file and field, kUnsupported for a decoder that is
  /// not known.
  static std::shared_ptr<const Vocabulary> from_folder(const std::string& folder);

  virtual ~Vocabulary() = default;

  /// Number of ids: one more than the greatest id. Ids without a token decode to nothing.
  virtual int32_t size() const = 0;

  /// Whether skip_special_tokens leaves this id out.
  virtual bool is_special(int32_t id) const = 0;

  /// Text that one token adds behind other text, as shown beside log-probabilities: a leading space is kept, special
  /// tokens show their name, bytes that are no character by themselves show as U+FFFD.
  virtual std::string token_text(int32_t id) const = 0;

  /// Text of a whole sequence: equal to the tokenizer library's own decode.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;

  /// Text of a sequence that grows behind `context` (a prompt, or nothing). Only what the sequence adds to the
  /// context's text comes out: the first word keeps its space, and a character that begins in the context and is
  /// completed by the sequence belongs to the sequence. The vocabulary must outlive the result.
  virtual std::unique_ptr<Detokenizer> detokenizer(std::span<const int32_t> context,
                                                   bool skip_special_tokens) const = 0;
};

}  // namespace quire
