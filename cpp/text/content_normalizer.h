#pragma once

#include <string>
#include <vector>

#include "text/json_fields.h"

namespace quire {

/// What tokenizer.json's `normalizer` does to the text of added tokens, which `tokenizers` decodes in that form since
/// version 0.23. Known are Prepend and Replace of a literal; the others (NFC, Lowercase, ...) have no effect here, as
/// they leave the usual names of tokens as they are.
class ContentNormalizer {
 public:
  /// `normalizer` may be missing. Raises: kInvalidArgument naming the field; kUnsupported for too many steps.
  explicit ContentNormalizer(const JsonField& normalizer);

  /// Raises: kInvalidArgument if the text becomes too long.
  std::string normalized(const std::string& content) const;

 private:
  /// An empty pattern stands for the beginning of the text.
  struct Step {
    std::string pattern;
    std::string content;
  };

  void add(const JsonField& normalizer);

  std::string place_;
  std::vector<Step> steps_;
};

}  // namespace quire
