#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "quire/vocabulary.h"
#include "text/stop.h"

namespace quire {

/// The text of one output sequence: detokenises it behind its prompt and ends it at a stop string.
///
/// A stop string counts as soon as the text of the tokens so far contains it, also where the detokenizer still holds
/// that text back (the newline that is a byte token in Llama vocabularies ends the sequence at once).
class OutputText {
 public:
  /// `vocabulary` must outlive the object. `stop`: index = what append() returns.
  /// Raises: kInvalidArgument for a stop string that is empty or not UTF-8.
  OutputText(const Vocabulary& vocabulary, std::span<const int32_t> prompt, bool skip_special_tokens,
             std::span<const std::string> stop, bool include_stop);

  /// Add a token and append to `out` the text that is certain to stay. Returns the index of the stop string that ends
  /// the text here, if one does; the object must not be used any more then.
  /// While not `stop_enabled` (min_tokens is not reached), stop strings that end in this token's text do not count.
  std::optional<size_t> append(int32_t id, bool stop_enabled, std::string& out);

  /// The sequence ends without a stop string: append the rest.
  void finish(std::string& out);

 private:
  /// A matcher that has read ahead into text which the detokenizer still holds back.
  struct Lookahead {
    StopMatcher matcher;
    std::string read;
    std::string out;
  };

  std::optional<size_t> take(bool stop_enabled, std::string& out);
  std::optional<size_t> look_ahead(bool stop_enabled, std::string& out);

  std::unique_ptr<Detokenizer> detokenizer_;
  std::optional<StopMatcher> matcher_;  ///< none without stop strings
  std::string fresh_;                   ///< newly final text, not yet fed to the matcher
  std::optional<Lookahead> lookahead_;
  size_t blind_ = 0;  ///< held back bytes that came while stop strings did not count
};

}  // namespace quire
