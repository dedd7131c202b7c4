#include "text/stop.h"

#include <algorithm>

#include "core/check.h"
#include "text/utf8.h"

namespace quire {
namespace {

std::vector<uint32_t> fallbacks(std::string_view text) {
  std::vector<uint32_t> fallback(text.size(), 0);
  uint32_t length = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (length > 0 && text[i] != text[length]) length = fallback[length - 1];
    if (text[i] == text[length]) ++length;
    fallback[i] = length;
  }
  return fallback;
}

}  // namespace

StopMatcher::StopMatcher(std::span<const std::string> stop, bool include_stop) : include_stop_(include_stop) {
  auto patterns = std::make_shared<std::vector<Pattern>>();
  for (size_t i = 0; i < stop.size(); ++i) {
    QUIRE_REQUIRE(!stop[i].empty(), ErrorKind::kInvalidArgument, "[stop] a stop string is empty: index=", i);
    QUIRE_REQUIRE(is_utf8(stop[i]), ErrorKind::kInvalidArgument, "[stop] a stop string is not UTF-8: index=", i);
    patterns->push_back({.text = stop[i], .fallback = fallbacks(stop[i])});
  }
  matched_.assign(patterns->size(), 0);
  patterns_ = std::move(patterns);
}

/// Moves every pattern on by one byte and returns the longest one that ends here.
std::optional<size_t> StopMatcher::advance(char byte) {
  std::optional<size_t> ended;
  for (size_t i = 0; i < matched_.size(); ++i) {
    const Pattern& pattern = (*patterns_)[i];
    uint32_t& length = matched_[i];
    while (length > 0 && pattern.text[length] != byte) length = pattern.fallback[length - 1];
    if (pattern.text[length] == byte) ++length;
    if (length < pattern.text.size()) continue;
    length = pattern.fallback[length - 1];
    if (!ended || pattern.text.size() > (*patterns_)[*ended].text.size()) ended = i;
  }
  return ended;
}

std::optional<size_t> StopMatcher::feed(std::string_view text, bool enabled, std::string& out) {
  for (size_t i = 0; i < text.size(); ++i) {
    const std::optional<size_t> ended = advance(text[i]);
    if (!ended || !enabled) continue;
    held_.append(text.substr(0, i + 1));
    const size_t cut = include_stop_ ? 0 : (*patterns_)[*ended].text.size();
    out.append(held_, 0, held_.size() - cut);
    held_.clear();
    return ended;
  }
  // The longest beginning of a stop string that the text ends with starts inside held_ + text.
  const size_t kept = matched_.empty() ? 0 : *std::max_element(matched_.begin(), matched_.end());
  held_.append(text);
  out.append(held_, 0, held_.size() - kept);
  held_.erase(0, held_.size() - kept);
  return std::nullopt;
}

void StopMatcher::finish(std::string& out) {
  out.append(held_);
  held_.clear();
}

}  // namespace quire
