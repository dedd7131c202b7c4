#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

/// Finds the first of several stop strings in text that arrives in pieces, and holds back whatever could still become
/// part of one. Time is linear in the text for each stop string (Knuth, Morris and Pratt). Copies share the strings.
class StopMatcher {
 public:
  /// `include_stop`: leave the stop string in the text.
  /// Raises: kInvalidArgument for a stop string that is empty or not UTF-8.
  StopMatcher(std::span<const std::string> stop, bool include_stop);

  /// Take `text` and append to `out` all that is certain to stay. Where a stop string ends, text is cut in front of it
  /// (or behind it, with include_stop), what follows is dropped, and its index is returned; the matcher must not be fed
  /// again. The stop string that ends first counts, and of several that end together the longest.
  /// While not `enabled`, matches that end in `text` do not count.
  std::optional<size_t> feed(std::string_view text, bool enabled, std::string& out);

  /// The text ends: append what has been held back.
  void finish(std::string& out);

 private:
  struct Pattern {
    std::string text;
    /// Length of the longest proper prefix of text[0, i] that is a suffix of it as well.
    std::vector<uint32_t> fallback;
  };

  std::optional<size_t> advance(char byte);

  std::shared_ptr<const std::vector<Pattern>> patterns_;
  bool include_stop_;
  std::vector<uint32_t> matched_;  ///< per pattern: bytes of it that the text ends with
  std::string held_;
};

}  // namespace quire
