#include "weights/checkpoint.h"

#include <array>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "core/check.h"
#include "core/json.h"
#include "core/quote.h"
#include "weights/file_formats.h"
#include "weights/layout.h"

namespace quire {
namespace {

bool is_there(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

/// What stands for a large file where a repository was cloned without its large files.
bool is_lfs_pointer(std::span<const std::byte> bytes) {
  constexpr std::string_view kBeginning = "version https://git-lfs";
  return std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()).starts_with(kBeginning);
}

}  // namespace

/// Puts a checkpoint together, file by file.
class CheckpointBuilder {
 public:
  using Reader = std::vector<NamedTensor> (*)(std::span<const std::byte>, std::string_view);

  /// `name`: what Checkpoint::name shall say.
  CheckpointBuilder(std::string folder, std::string name, Reader reader) : folder_(std::move(folder)), reader_(reader) {
    result_.name_ = std::move(name);
  }

  void add_file(const std::string& name) {
    result_.files_.push_back(
        std::make_unique<Checkpoint::File>(Checkpoint::File{MappedFile(folder_ + "/" + name), name}));
    const size_t index = result_.files_.size() - 1;
    const std::span<const std::byte> bytes = result_.files_[index]->mapping.bytes();
    QUIRE_REQUIRE(!is_lfs_pointer(bytes), ErrorKind::kInvalidArgument, "[", name,
                  "] holds a Git LFS pointer, not the weights; run `git lfs pull` in the folder");
    for (NamedTensor& entry : reader_(bytes, name)) {
      const auto [at, fresh] = result_.tensors_.emplace(std::move(entry.name), entry.tensor);
      QUIRE_REQUIRE(fresh, ErrorKind::kInvalidArgument, "[", name, "] tensor twice: name=", in_quotes(at->first),
                    ", also in ", result_.file_of(at->first));
      result_.file_index_.emplace(at->first, index);
    }
  }

  /// Read the shards that an index lists, and hold them against it.
  void add_shards(const std::string& index_name) {
    const std::string text = read_text_file(folder_ + "/" + index_name);
    const Json index = parse_json(text, index_name);
    const Json* map = index.find("weight_map");
    QUIRE_REQUIRE(map != nullptr && map->as_object() != nullptr, ErrorKind::kInvalidArgument, "[", index_name,
                  "] missing field: weight_map, expected=an object of tensor names and file names");
    std::set<std::string> shards;
    for (const auto& [tensor, file] : *map->as_object()) {
      QUIRE_REQUIRE(file.as_string() != nullptr && is_plain_name(*file.as_string()), ErrorKind::kInvalidArgument, "[",
                    index_name, "] wrong file name in weight_map: name=", in_quotes(tensor),
                    ", expected=the name of a file in this folder, got=",
                    file.as_string() == nullptr ? std::string(file.type_name()) : in_quotes(*file.as_string()));
      shards.insert(*file.as_string());
    }
    for (const std::string& shard : shards) {
      QUIRE_REQUIRE(is_there(folder_ + "/" + shard), ErrorKind::kNotFound, "[", index_name,
                    "] shard missing from the folder: file=", in_quotes(shard), "; is the download complete?");
      add_file(shard);
    }
    for (const auto& [tensor, file] : *map->as_object()) {
      const bool agrees = result_.find(tensor) != nullptr && result_.file_of(tensor) == *file.as_string();
      QUIRE_REQUIRE(agrees, ErrorKind::kInvalidArgument, "[", index_name,
                    "] tensor is not in the file that weight_map names: name=", in_quotes(tensor),
                    ", file=", in_quotes(*file.as_string()));
    }
  }

  Checkpoint take() { return std::move(result_); }

 private:
  /// No path: an index must not lead the reader out of the folder.
  static bool is_plain_name(const std::string& name) {
    return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
           name.find('\0') == std::string::npos;
  }

  std::string folder_;
  Reader reader_;
  Checkpoint result_;
};

Checkpoint Checkpoint::open(const std::string& folder) {
  struct Candidate {
    const char* file;
    const char* index;
    CheckpointBuilder::Reader reader;
  };
  constexpr std::array kCandidates = {
      Candidate{"model.safetensors", "model.safetensors.index.json", read_safetensors},
      Candidate{"pytorch_model.bin", "pytorch_model.bin.index.json", read_pytorch},
  };
  for (const auto& [file, index, reader] : kCandidates) {
    if (is_there(folder + "/" + file)) {
      CheckpointBuilder builder(folder, file, reader);
      builder.add_file(file);
      return builder.take();
    }
    if (is_there(folder + "/" + index)) {
      CheckpointBuilder builder(folder, index, reader);
      builder.add_shards(index);
      return builder.take();
    }
  }
  throw Error(ErrorKind::kNotFound,
              detail::join_message("[weights] no weights in the folder: path=", in_quotes(folder),
                                   ", expected=model.safetensors, model.safetensors.index.json, pytorch_model.bin or "
                                   "pytorch_model.bin.index.json"));
}

const Tensor* Checkpoint::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const std::string& Checkpoint::file_of(const std::string& name) const {
  return holder(name).name;
}

void Checkpoint::check_unchanged(const std::string& name) const {
  holder(name).mapping.check_unchanged();
}

Checkpoint::Extent Checkpoint::extent(const std::string& name) const {
  const Tensor& tensor = tensors_.at(name);
  const auto* data = static_cast<const std::byte*>(tensor.data);
  return {static_cast<size_t>(data - holder(name).mapping.bytes().data()),
          static_cast<size_t>(layout_bytes(tensor).value_or(0))};
}

void Checkpoint::will_need(const std::string& name, size_t first, size_t bytes) const {
  holder(name).mapping.will_need(extent(name).offset + first, bytes);
}

void Checkpoint::bring_in(const std::string& name, size_t first, size_t bytes) const {
  holder(name).mapping.bring_in(extent(name).offset + first, bytes);
}

void Checkpoint::drop(const std::string& name) const {
  const Extent extent = this->extent(name);
  holder(name).mapping.drop(extent.offset, extent.bytes);
}

}  // namespace quire
