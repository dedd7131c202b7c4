#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "core/quote.h"
#include "weights/file_formats.h"
#include "weights/layout.h"

namespace quire {
namespace {

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr int kMostHeaderDepth = 4;

constexpr std::array<std::pair<std::string_view, DType>, 12> kTypes = {{
    {"F32", DType::kFloat32},
    {"F16", DType::kFloat16},
    {"BF16", DType::kBFloat16},
    {"F64", DType::kFloat64},
    {"I64", DType::kInt64},
    {"I32", DType::kInt32},
    {"I16", DType::kInt16},
    {"I8", DType::kInt8},
    {"U8", DType::kUInt8},
    {"BOOL", DType::kBool},
    {"F8_E4M3", DType::kFloat8E4M3},
    {"F8_E5M2", DType::kFloat8E5M2},
}};

/// One entry of the header, with the offsets it names.
struct Entry {
  std::string name;
  Tensor tensor;
  int64_t begin = 0;
  int64_t end = 0;
};

class HeaderReader {
 public:
  explicit HeaderReader(std::string_view where) : where_(where) {}

  Entry entry(const std::string& name, const Json& value) const {
    require(value.as_object() != nullptr, name, "its entry is no object");
    Entry entry{.name = name, .tensor = {}};
    entry.tensor = layout(name, value);
    const std::vector<int64_t> offsets = integers(name, value, "data_offsets");
    require(offsets.size() == 2 && offsets[0] <= offsets[1], name, "data_offsets is no pair in ascending order");
    entry.begin = offsets[0];
    entry.end = offsets[1];
    const std::optional<int64_t> bytes = layout_bytes(entry.tensor);
    QUIRE_REQUIRE(bytes && *bytes == entry.end - entry.begin, ErrorKind::kInvalidArgument, "[", where_,
                  "] tensor's shape and size disagree: name=", in_quotes(name), ", data_offsets=[", entry.begin, ", ",
                  entry.end, "], shape=", shape_text(entry.tensor), ", dtype=", dtype_name(entry.tensor.dtype));
    return entry;
  }

 private:
  void require(bool condition, const std::string& name, std::string_view problem) const {
    QUIRE_REQUIRE(condition, ErrorKind::kInvalidArgument, "[", where_, "] broken tensor entry: name=", in_quotes(name),
                  ", ", problem);
  }

  std::vector<int64_t> integers(const std::string& name, const Json& value, std::string_view field) const {
    const Json* list = value.find(field);
    const bool is_list = list != nullptr && list->as_array() != nullptr;
    require(is_list, name, detail::join_message(field, " is missing or no list"));
    std::vector<int64_t> result;
    for (const Json& item : *list->as_array()) {
      const int64_t* integer = item.as_int();
      require(integer != nullptr && *integer >= 0, name, detail::join_message(field, " holds no natural number"));
      result.push_back(*integer);
    }
    return result;
  }

  /// Type and shape; no data yet.
  Tensor layout(const std::string& name, const Json& value) const {
    const Json* type = value.find("dtype");
    require(type != nullptr && type->as_string() != nullptr, name, "dtype is missing or no string");
    const auto known =
        std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& row) { return row.first == *type->as_string(); });
    QUIRE_REQUIRE(known != kTypes.end(), ErrorKind::kUnsupported, "[", where_,
                  "] unknown element type: name=", in_quotes(name), ", dtype=", in_quotes(*type->as_string()));
    const std::vector<int64_t> shape = integers(name, value, "shape");
    QUIRE_REQUIRE(shape.size() <= Tensor::kMaxRank, ErrorKind::kUnsupported, "[", where_,
                  "] tensor of too many dimensions: name=", in_quotes(name), ", expected=at most ", Tensor::kMaxRank,
                  ", got=", shape.size());
    return contiguous_layout(known->second, shape);
  }

  std::string_view where_;
};

/// Tensors in the order of their data, which must fill [0, size) without gap or overlap.
void require_full_cover(std::vector<Entry>& entries, int64_t size, std::string_view where) {
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  int64_t covered = 0;
  for (const Entry& entry : entries) {
    QUIRE_REQUIRE(entry.begin == covered, ErrorKind::kInvalidArgument, "[", where, "] tensor ",
                  entry.begin < covered ? "overlaps the one before it" : "lies behind a gap",
                  ": name=", in_quotes(entry.name), ", expected=data_offsets from ", covered, ", got=", entry.begin);
    QUIRE_REQUIRE(entry.end <= size, ErrorKind::kInvalidArgument, "[", where,
                  "] tensor lies outside the file, which may be truncated: name=", in_quotes(entry.name),
                  ", expected=data_offsets up to ", size, ", got=", entry.end);
    covered = entry.end;
  }
  QUIRE_REQUIRE(covered == size, ErrorKind::kInvalidArgument, "[", where,
                "] data behind the last tensor: expected=", covered, " bytes, got=", size);
}

uint64_t header_size(std::span<const std::byte> bytes, std::string_view where) {
  uint64_t size = 0;
  QUIRE_REQUIRE(bytes.size() >= sizeof size, ErrorKind::kInvalidArgument, "[", where,
                "] file too short for a header: expected=at least 8 bytes, got=", bytes.size());
  for (size_t i = 0; i < sizeof size; ++i) size |= static_cast<uint64_t>(bytes[i]) << (8 * i);  // little endian
  QUIRE_REQUIRE(size <= kMostHeaderBytes, ErrorKind::kInvalidArgument, "[", where,
                "] header too large: expected=at most ", kMostHeaderBytes, " bytes, got=", size);
  QUIRE_REQUIRE(size <= bytes.size() - sizeof size, ErrorKind::kInvalidArgument, "[", where,
                "] header lies outside the file, which may be truncated: expected=at most ", bytes.size() - sizeof size,
                " bytes, got=", size);
  return size;
}

}  // namespace

std::vector<NamedTensor> read_safetensors(std::span<const std::byte> bytes, std::string_view where) {
  const uint64_t size = header_size(bytes, where);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, size);
  const Json header = parse_json(text, where, {.max_depth = kMostHeaderDepth});
  QUIRE_REQUIRE(header.as_object() != nullptr, ErrorKind::kInvalidArgument, "[", where,
                "] header is no object: got=", header.type_name());

  const HeaderReader reader(where);
  std::vector<Entry> entries;
  for (const auto& [name, value] : *header.as_object()) {
    if (name != "__metadata__") entries.push_back(reader.entry(name, value));
  }
  const std::span<const std::byte> data = bytes.subspan(8 + size);
  require_full_cover(entries, static_cast<int64_t>(data.size()), where);

  std::vector<NamedTensor> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    // Views are read only by convention: Tensor has one pointer type for all.
    entry.tensor.data = const_cast<std::byte*>(data.data() + entry.begin);
    tensors.push_back({std::move(entry.name), entry.tensor});
  }
  return tensors;
}

}  // namespace quire
