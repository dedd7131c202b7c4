#include "text/output_text.h"

#include <algorithm>
#include <string_view>

namespace quire {

OutputText::OutputText(const Vocabulary& vocabulary, std::span<const int32_t> prompt, bool skip_special_tokens,
                       std::span<const std::string> stop, bool include_stop)
    : detokenizer_(vocabulary.detokenizer(prompt, skip_special_tokens)) {
  if (!stop.empty()) matcher_.emplace(stop, include_stop);
}

std::optional<size_t> OutputText::append(int32_t id, bool stop_enabled, std::string& out) {
  if (!matcher_) {
    detokenizer_->append(id, out);
    return std::nullopt;
  }
  fresh_.clear();
  detokenizer_->append(id, fresh_);
  const std::optional<size_t> ended = take(stop_enabled, out);
  return ended ? ended : look_ahead(stop_enabled, out);
}

/// Feeds the newly final text to the matcher.
std::optional<size_t> OutputText::take(bool stop_enabled, std::string& out) {
  if (fresh_.empty()) return std::nullopt;
  lookahead_.reset();
  const size_t blind = std::min(blind_, fresh_.size());
  blind_ = 0;
  const std::string_view text = fresh_;
  matcher_->feed(text.substr(0, blind), false, out);
  return matcher_->feed(text.substr(blind), stop_enabled, out);
}

/// Searches text that the tokens so far have but later ones might undo. It may not be handed out unless the sequence
/// ends here.
std::optional<size_t> OutputText::look_ahead(bool stop_enabled, std::string& out) {
  if (!detokenizer_->holds_characters()) return std::nullopt;
  const std::string pending = detokenizer_->pending();
  if (!lookahead_ || !pending.starts_with(lookahead_->read)) lookahead_.emplace(Lookahead{*matcher_, {}, {}});
  const std::string_view text = std::string_view(pending).substr(lookahead_->read.size());
  const std::optional<size_t> ended = lookahead_->matcher.feed(text, stop_enabled, lookahead_->out);
  if (ended) out += lookahead_->out;
  lookahead_->read = pending;
  if (!stop_enabled) blind_ = pending.size();
  return ended;
}

void OutputText::finish(std::string& out) {
  if (!matcher_) return detokenizer_->finish(out);
  fresh_.clear();
  detokenizer_->finish(fresh_);
  matcher_->feed(fresh_, false, out);
  matcher_->finish(out);
}

}  // namespace quire
