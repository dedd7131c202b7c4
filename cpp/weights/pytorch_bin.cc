#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/check.h"
#include "core/quote.h"
#include "weights/file_formats.h"
#include "weights/layout.h"
#include "weights/pickle.h"
#include "weights/zip_archive.h"

namespace quire {
namespace {

/// A state_dict of 10^5 tensors takes some 15 MB.
constexpr size_t kMostPickleBytes = 64 << 20;

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

class Archive {
 public:
  Archive(std::span<const std::byte> bytes, std::string_view where) : where_(where) {
    for (ZipRecord& record : read_zip(bytes, where)) {
      // Everything lies in one folder, named after the file that was saved.
      const size_t slash = record.name.find('/');
      if (slash == std::string::npos) continue;
      const bool fresh = records_.emplace(record.name.substr(slash + 1), record.bytes).second;
      QUIRE_REQUIRE(fresh, ErrorKind::kInvalidArgument, "[", where,
                    "] record twice in the zip file: record=", in_quotes(record.name));
    }
  }

  const std::span<const std::byte>* find(const std::string& name) const {
    const auto found = records_.find(name);
    return found == records_.end() ? nullptr : &found->second;
  }

  std::span<const std::byte> get(const std::string& name) const {
    const std::span<const std::byte>* record = find(name);
    QUIRE_REQUIRE(record != nullptr, ErrorKind::kInvalidArgument, "[", where_,
                  "] record missing from the zip file: record=", in_quotes(name));
    return *record;
  }

 private:
  std::string_view where_;
  std::unordered_map<std::string, std::span<const std::byte>> records_;
};

/// Point the tensor's view at its elements, once they are known to lie within their record.
Tensor view_of(const PickledTensor& pickled, std::span<const std::byte> storage, std::string_view where) {
  const int64_t width = dtype_bytes(pickled.layout.dtype);
  const int64_t elements = static_cast<int64_t>(storage.size()) / width;
  QUIRE_REQUIRE(pickled.storage_elements <= elements, ErrorKind::kInvalidArgument, "[", where,
                "] storage shorter than the pickle says: name=", in_quotes(pickled.name),
                ", expected=", pickled.storage_elements, " elements, got=", elements);
  const std::optional<int64_t> reach = layout_bytes(pickled.layout);
  const bool inside = reach && pickled.offset <= pickled.storage_elements &&
                      *reach / width <= pickled.storage_elements - pickled.offset;
  QUIRE_REQUIRE(inside, ErrorKind::kInvalidArgument, "[", where,
                "] tensor lies outside its storage: name=", in_quotes(pickled.name), ", offset=", pickled.offset,
                ", shape=", shape_text(pickled.layout), ", storage=", pickled.storage_elements, " elements");
  Tensor view = pickled.layout;
  // Views are read only by convention: Tensor has one pointer type for all.
  view.data = const_cast<std::byte*>(storage.data() + pickled.offset * width);
  return view;
}

}  // namespace

std::vector<NamedTensor> read_pytorch(std::span<const std::byte> bytes, std::string_view where) {
  QUIRE_REQUIRE(looks_like_zip(bytes), ErrorKind::kInvalidArgument, "[", where,
                "] not a zip file: it was saved by torch before 1.6, or it is no checkpoint; load it in torch once "
                "and save it again, best as safetensors");
  const Archive archive(bytes, where);
  if (const auto* order = archive.find("byteorder")) {
    QUIRE_REQUIRE(as_text(*order) == "little", ErrorKind::kInvalidArgument, "[", where,
                  "] unknown byte order: expected='little', got=", in_quotes(as_text(*order)));
  }
  const std::span<const std::byte> pickle = archive.get("data.pkl");
  QUIRE_REQUIRE(pickle.size() <= kMostPickleBytes, ErrorKind::kInvalidArgument, "[", where,
                "] pickle too large: expected=at most ", kMostPickleBytes, " bytes, got=", pickle.size());
  std::vector<NamedTensor> tensors;
  for (PickledTensor& pickled : read_pickled_tensors(as_text(pickle), where)) {
    const Tensor view = view_of(pickled, archive.get("data/" + pickled.storage), where);
    tensors.push_back({std::move(pickled.name), view});
  }
  return tensors;
}

}  // namespace quire
