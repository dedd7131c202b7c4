#include "weights/zip_archive.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "core/check.h"
#include "core/quote.h"

// Source: PKWARE's APPNOTE 6.3.9, sections 4.3 and 4.5.3.
namespace quire {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr size_t kLocalHeaderBytes = 30;
constexpr size_t kCentralHeaderBytes = 46;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64Bytes = 56;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr size_t kMostCommentBytes = 0xffff;
constexpr uint16_t kZip64Extra = 0x0001;
constexpr uint32_t kIn64Bits = 0xffffffff;  // the value is in the zip64 field
constexpr uint16_t kEncrypted = 1;

struct Directory {
  uint64_t offset = 0;
  uint64_t num_records = 0;
};

class ZipReader {
 public:
  ZipReader(std::span<const std::byte> bytes, std::string_view where) : bytes_(bytes), where_(where) {}

  std::vector<ZipRecord> records() const {
    const Directory directory = find_directory();
    std::vector<ZipRecord> result;
    uint64_t at = directory.offset;
    for (uint64_t i = 0; i < directory.num_records; ++i) {
      require(number(at, 4) == kCentralHeader, "broken directory of the zip file");
      const uint64_t name_bytes = number(at + 28, 2);
      const uint64_t extra_bytes = number(at + 30, 2);
      const uint64_t comment_bytes = number(at + 32, 2);
      result.push_back(record(at, text(at + kCentralHeaderBytes, name_bytes),
                              part(at + kCentralHeaderBytes + name_bytes, extra_bytes)));
      at += kCentralHeaderBytes + name_bytes + extra_bytes + comment_bytes;
    }
    return result;
  }

 private:
  void require(bool condition, std::string_view problem) const {
    QUIRE_REQUIRE(condition, ErrorKind::kInvalidArgument, "[", where_, "] ", problem, ", it may be truncated");
  }

  std::span<const std::byte> part(uint64_t offset, uint64_t size) const {
    require(offset <= bytes_.size() && size <= bytes_.size() - offset, "the zip file points outside itself");
    return bytes_.subspan(offset, size);
  }

  /// Little endian.
  uint64_t number(uint64_t offset, int width) const {
    uint64_t value = 0;
    const std::span<const std::byte> field = part(offset, width);
    for (int i = 0; i < width; ++i) value |= static_cast<uint64_t>(field[i]) << (8 * i);
    return value;
  }

  std::string text(uint64_t offset, uint64_t size) const {
    const std::span<const std::byte> field = part(offset, size);
    return {reinterpret_cast<const char*>(field.data()), field.size()};
  }

  Directory find_directory() const {
    require(bytes_.size() >= kEndBytes, "not a zip file");
    const uint64_t last = bytes_.size() - kEndBytes;
    const uint64_t first = last > kMostCommentBytes ? last - kMostCommentBytes : 0;
    for (uint64_t at = last;; --at) {
      if (number(at, 4) == kEnd) return directory_at(at);
      require(at > first, "the zip file has no directory");
    }
  }

  Directory directory_at(uint64_t end) const {
    const bool has_zip64 = end >= kEnd64LocatorBytes && number(end - kEnd64LocatorBytes, 4) == kEnd64Locator;
    if (!has_zip64) return {.offset = number(end + 16, 4), .num_records = number(end + 10, 2)};
    const uint64_t end64 = number(end - kEnd64LocatorBytes + 8, 8);
    part(end64, kEnd64Bytes);
    require(number(end64, 4) == kEnd64, "broken directory of the zip file");
    return {.offset = number(end64 + 48, 8), .num_records = number(end64 + 32, 8)};
  }

  ZipRecord record(uint64_t at, std::string name, std::span<const std::byte> extra) const {
    const auto refuse_unless = [&](bool condition, std::string_view problem) {
      QUIRE_REQUIRE(condition, ErrorKind::kInvalidArgument, "[", where_, "] ", problem, ": record=", in_quotes(name),
                    "; convert the file to safetensors");
    };
    refuse_unless((number(at + 8, 2) & kEncrypted) == 0, "encrypted record in a zip file");
    refuse_unless(number(at + 10, 2) == 0, "compressed record in a zip file");

    uint64_t stored = number(at + 20, 4);
    uint64_t size = number(at + 24, 4);
    uint64_t offset = number(at + 42, 4);
    // The zip64 field holds just those of the three that do not fit, in this order.
    std::optional<std::span<const std::byte>> wide = find_extra(extra, kZip64Extra);
    for (uint64_t* value : {&size, &stored, &offset}) {
      if (*value != kIn64Bits || !wide) continue;
      refuse_unless(wide->size() >= 8, "broken zip64 field");
      *value = number(static_cast<uint64_t>(wide->data() - bytes_.data()), 8);
      wide = wide->subspan(8);
    }
    refuse_unless(stored == size, "compressed record in a zip file");
    // Checked apart, so that the sum below cannot wrap round.
    part(offset, kLocalHeaderBytes);
    require(number(offset, 4) == kLocalHeader, "broken record of the zip file");
    const uint64_t data = offset + kLocalHeaderBytes + number(offset + 26, 2) + number(offset + 28, 2);
    return {.name = std::move(name), .bytes = part(data, size)};
  }

  std::optional<std::span<const std::byte>> find_extra(std::span<const std::byte> extra, uint16_t wanted) const {
    while (extra.size() >= 4) {
      const uint64_t at = static_cast<uint64_t>(extra.data() - bytes_.data());
      const uint64_t size = number(at + 2, 2);
      require(size <= extra.size() - 4, "broken directory of the zip file");
      if (number(at, 2) == wanted) return extra.subspan(4, size);
      extra = extra.subspan(4 + size);
    }
    return std::nullopt;
  }

  std::span<const std::byte> bytes_;
  std::string_view where_;
};

}  // namespace

bool looks_like_zip(std::span<const std::byte> bytes) {
  constexpr std::byte kMagic[] = {std::byte{'P'}, std::byte{'K'}, std::byte{3}, std::byte{4}};
  return bytes.size() >= 4 && std::equal(bytes.begin(), bytes.begin() + 4, kMagic);
}

std::vector<ZipRecord> read_zip(std::span<const std::byte> bytes, std::string_view where) {
  return ZipReader(bytes, where).records();
}

}  // namespace quire
