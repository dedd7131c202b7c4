#include "text/decoder_json.h"

#include <algorithm>
#include <cstdint>
#include <string_view>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "text/utf8.h"

namespace quire {
namespace {

constexpr size_t kMaxSteps = 16;
/// How much longer all replacements together may make a token.
constexpr size_t kMaxExpansion = 8;

/// Follows the order of decoders and knows whether they still see pieces or already one fused text.
class DecoderReader {
 public:
  void read(const JsonField& decoder);
  std::vector<DecodeStep> take() && { return std::move(steps_); }

 private:
  void read_replace(const JsonField& decoder);
  void read_strip(const JsonField& decoder);
  void read_metaspace(const JsonField& decoder);
  void read_suffix(const JsonField& decoder);
  void add(DecodeStep step) { steps_.push_back(std::move(step)); }

  /// For decoders that look at whole pieces. BPEDecoder hands its pieces on in parts.
  void require_pieces(const JsonField& decoder, std::string_view type) const {
    QUIRE_REQUIRE(!fused_ && !behind_suffix_, ErrorKind::kUnsupported, decoder.place, " ", type,
                  " is not supported behind ", fused_ ? "Fuse or ByteLevel" : "BPEDecoder");
  }

  std::vector<DecodeStep> steps_;
  bool fused_ = false;
  bool behind_suffix_ = false;
  size_t expansion_ = 1;
};

/// A string of exactly one character.
std::string one_character(const JsonField& field) {
  const std::string& text = field.string();
  QUIRE_REQUIRE(!text.empty() && scan_utf8(text).length == text.size(), ErrorKind::kInvalidArgument, field.place,
                " must be one character: got=", in_quotes(text));
  return text;
}

uint64_t count(const JsonField& field) {
  const int64_t value = field.integer();
  QUIRE_REQUIRE(value >= 0, ErrorKind::kInvalidArgument, field.place, " must not be negative: got=", value);
  return static_cast<uint64_t>(value);
}

const std::string& non_empty(const JsonField& field) {
  QUIRE_REQUIRE(!field.string().empty(), ErrorKind::kUnsupported, field.place, " must not be empty");
  return field.string();
}

void DecoderReader::read(const JsonField& decoder) {
  const std::string& type = decoder.member("type").string();
  QUIRE_REQUIRE(steps_.size() < kMaxSteps, ErrorKind::kUnsupported, decoder.place,
                " has too many steps: expected=at most ", kMaxSteps);
  if (type == "Sequence") {
    const JsonField decoders = decoder.member("decoders");
    for (size_t i = 0; i < decoders.array().size(); ++i) read(decoders.element(i));
  } else if (type == "ByteLevel") {
    require_pieces(decoder, type);
    add(ByteMapStep{});
    add(LossyUtf8Step{});
    fused_ = true;
  } else if (type == "ByteFallback") {
    require_pieces(decoder, type);
    add(ByteRunStep{});
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    read_replace(decoder);
  } else if (type == "Strip") {
    read_strip(decoder);
  } else if (type == "Metaspace") {
    read_metaspace(decoder);
  } else if (type == "BPEDecoder") {
    read_suffix(decoder);
  } else {
    QUIRE_REQUIRE(false, ErrorKind::kUnsupported, decoder.place, " is of an unknown type: got=", in_quotes(type),
                  ", expected one of BPEDecoder, ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
  }
}

void DecoderReader::read_replace(const JsonField& decoder) {
  const JsonField pattern = decoder.member("pattern").member("String");
  QUIRE_REQUIRE(pattern.present(), ErrorKind::kUnsupported, decoder.place,
                " Replace is supported with a pattern of type String only");
  ReplaceStep step;
  step.pattern = non_empty(pattern);
  step.content = decoder.member("content").string();
  // Behind fusing, text arrives in parts that end between characters, so only one character can be looked for.
  if (fused_ || behind_suffix_) one_character(pattern);
  expansion_ *= std::max<size_t>(1, (step.content.size() + step.pattern.size() - 1) / step.pattern.size());
  QUIRE_REQUIRE(expansion_ <= kMaxExpansion, ErrorKind::kUnsupported, decoder.place,
                " Replace makes tokens too long: expected=at most ", kMaxExpansion, " times as long");
  add(std::move(step));
}

void DecoderReader::read_strip(const JsonField& decoder) {
  const std::string content = one_character(decoder.member("content"));
  const uint64_t start = count(decoder.member("start"));
  const uint64_t stop = count(decoder.member("stop"));
  if (fused_) return add(FusedStripStep{.content = content, .start = start, .stop = stop, .held = {}});
  require_pieces(decoder, "Strip");
  StripStep step;
  step.content = content;
  step.start = start;
  step.stop = stop;
  add(std::move(step));
}

void DecoderReader::read_metaspace(const JsonField& decoder) {
  if (!fused_) require_pieces(decoder, "Metaspace");
  MetaspaceStep step;
  step.replacement = one_character(decoder.member("replacement"));
  const JsonField scheme = decoder.member("prepend_scheme");
  const JsonField adds_prefix = decoder.member("add_prefix_space");  // older spelling of the scheme
  step.drops_first = !(scheme.present() && scheme.string() == "never");
  if (adds_prefix.present() && !adds_prefix.boolean()) step.drops_first = false;
  step.fused = fused_;
  add(std::move(step));
}

void DecoderReader::read_suffix(const JsonField& decoder) {
  require_pieces(decoder, "BPEDecoder");
  add(SuffixStep{.suffix = non_empty(decoder.member("suffix")), .if_followed = {}, .if_last = {}});
  behind_suffix_ = true;
}

}  // namespace

std::vector<DecodeStep> read_decoder(const JsonField& decoder) {
  if (!decoder.present()) return {JoinStep{}};
  DecoderReader reader;
  reader.read(decoder);
  return std::move(reader).take();
}

}  // namespace quire
