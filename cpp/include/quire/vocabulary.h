#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace quire {

/// Token id -> text: what outputs and stop strings need of a tokenizer. Immutable and safe to share between threads.
///
/// Encoding text into ids is the tokenizer libraries' work and happens outside the engine.
class Vocabulary {
 public:
  /// Read `tokenizer.json` or, where there is none, `tokenizer.model` (SentencePiece) from a model folder.
  /// Raises: kNotFound with neither file, kInvalidArgument naming file and field, kUnsupported for a decoder that is
  /// not known.
  static std::shared_ptr<const Vocabulary> from_folder(const std::string& folder);

  virtual ~Vocabulary() = default;

  /// Number of ids: one more than the greatest id. Ids without a token decode to nothing.
  virtual int32_t size() const = 0;

  /// Whether skip_special_tokens leaves this id out.
  virtual bool is_special(int32_t id) const = 0;

  /// Text of one token by itself, as shown beside log-probabilities.
  virtual std::string token_text(int32_t id) const = 0;

  /// Text of a whole sequence: equal to the tokenizer library's own decode.
  virtual std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const = 0;
};

}  // namespace quire
