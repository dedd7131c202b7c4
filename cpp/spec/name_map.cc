#include "spec/name_map.h"

#include <algorithm>
#include <cstddef>

#include "core/check.h"

namespace quire {
namespace {

void replace_placeholder(std::string& text, std::string_view placeholder, std::string_view value) {
  if (const size_t at = text.find(placeholder); at != std::string::npos) text.replace(at, placeholder.size(), value);
}

}  // namespace

const NameRule& NameMap::rule(std::string_view module) const {
  const auto found = std::find_if(rules.begin(), rules.end(), [&](const NameRule& r) { return r.module == module; });
  QUIRE_CHECK(found != rules.end(), "the family names no ", module);
  return *found;
}

std::string expand_name(std::string_view source, const NameValues& values) {
  std::string name(source);
  replace_placeholder(name, "{body}", values.prefix.body);
  replace_placeholder(name, "{root}", values.prefix.root);
  replace_placeholder(name, "{i}", std::to_string(values.layer));
  replace_placeholder(name, "{e}", std::to_string(values.expert));
  replace_placeholder(name, "{h}", std::to_string(values.head));
  replace_placeholder(name, "{extra}", std::to_string(values.extra_layer));
  return name;
}

bool matches_pattern(std::string_view pattern, std::string_view name) {
  // On a mismatch, let the last '*' swallow one character more and try again from behind it.
  size_t p = 0;
  size_t n = 0;
  size_t star = std::string_view::npos;
  size_t swallowed = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      swallowed = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      n = ++swallowed;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace quire
