#include "text/content_normalizer.h"

#include <string_view>
#include <utility>

#include "core/check.h"

namespace quire {
namespace {

constexpr size_t kMaxSteps = 16;
constexpr size_t kMaxBytes = 1 << 16;

}  // namespace

ContentNormalizer::ContentNormalizer(const JsonField& normalizer) : place_(normalizer.place) {
  if (normalizer.present()) add(normalizer);
}

void ContentNormalizer::add(const JsonField& normalizer) {
  QUIRE_REQUIRE(steps_.size() < kMaxSteps, ErrorKind::kUnsupported, place_, " has too many steps: expected=at most ",
                kMaxSteps);
  const std::string& type = normalizer.member("type").string();
  if (type == "Sequence") {
    const JsonField normalizers = normalizer.member("normalizers");
    for (size_t i = 0; i < normalizers.array().size(); ++i) add(normalizers.element(i));
  } else if (type == "Prepend") {
    steps_.push_back({.pattern = {}, .content = normalizer.member("prepend").string()});
  } else if (type == "Replace") {
    const JsonField literal = normalizer.member("pattern").member("String");
    if (!literal.present() || literal.string().empty()) return;
    steps_.push_back({.pattern = literal.string(), .content = normalizer.member("content").string()});
  }
}

std::string ContentNormalizer::normalized(const std::string& content) const {
  std::string text = content;
  for (const Step& step : steps_) {
    std::string result;
    std::string_view rest = text;
    if (step.pattern.empty() && !text.empty()) result = step.content;
    for (size_t found; !step.pattern.empty() && (found = rest.find(step.pattern)) != std::string_view::npos;) {
      result.append(rest.substr(0, found)).append(step.content);
      rest.remove_prefix(found + step.pattern.size());
      if (result.size() > kMaxBytes) break;
    }
    text = std::move(result.append(rest));
    QUIRE_REQUIRE(text.size() <= kMaxBytes, ErrorKind::kInvalidArgument, place_,
                  " makes an added token too long: expected=at most ", kMaxBytes, " bytes");
  }
  return text;
}

}  // namespace quire
