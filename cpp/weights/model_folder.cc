#include "weights/model_folder.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string_view>
#include <system_error>

#include "core/check.h"
#include "core/json.h"
#include "core/log.h"
#include "core/mapped_file.h"
#include "core/quote.h"
#include "spec/families/table.h"
#include "spec/hf_config.h"

namespace quire {
namespace {

constexpr Range<int32_t> kTokenIds{0, std::numeric_limits<int32_t>::max()};

/// One of the folder's JSON files, or nothing if it is not there.
std::optional<HfConfig> read_config(const std::string& folder, const char* name) {
  const std::string path = folder + "/" + name;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  const std::string text = read_text_file(path);
  return HfConfig(parse_json(text, name), name);
}

/// An id that the model has no token for can never be generated: it is left out, with a line in the log.
void drop_beyond_vocabulary(std::vector<int32_t>& ids, int32_t vocab, const HfConfig& source, const char* field) {
  const auto is_beyond = [&](int32_t id) { return id >= vocab; };
  if (std::none_of(ids.begin(), ids.end(), is_beyond)) return;
  log(LogLevel::kWarning, detail::join_message("[", source.file(), "] ids beyond the vocabulary are ignored: field=",
                                               field, ", vocab_size=", vocab));
  ids.erase(std::remove_if(ids.begin(), ids.end(), is_beyond), ids.end());
}

std::vector<int32_t> token_ids(const HfConfig& config, const std::optional<HfConfig>& generation, const char* field,
                               int32_t vocab) {
  const HfConfig& source = generation && generation->has(field) ? *generation : config;
  std::vector<int32_t> ids = source.integers(field, kTokenIds);
  drop_beyond_vocabulary(ids, vocab, source, field);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::optional<DType> stored_dtype(const HfConfig& config) {
  constexpr std::string_view kPrefix = "torch.";  // some tools write torch's own name
  const char* const field = config.has("dtype") ? "dtype" : "torch_dtype";
  std::string name = config.string_or(field, "");
  if (name.empty()) return std::nullopt;
  if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  const std::optional<DType> dtype = dtype_from_name(name);
  if (!dtype) config.refuse(ErrorKind::kInvalidArgument, field, "unknown type", "float32, bfloat16 or float16");
  return dtype;
}

}  // namespace

ModelFolder read_model_folder(const std::string& path) {
  std::error_code ignored;
  QUIRE_REQUIRE(std::filesystem::exists(path, ignored), ErrorKind::kNotFound,
                "[model] no such folder: path=", in_quotes(path));
  QUIRE_REQUIRE(std::filesystem::is_directory(path, ignored), ErrorKind::kInvalidArgument,
                "[model] not a folder: path=", in_quotes(path),
                ", expected=a folder with config.json, weights and tokenizer");
  const std::optional<HfConfig> config = read_config(path, "config.json");
  QUIRE_REQUIRE(config, ErrorKind::kNotFound, "[model] no config.json in the folder: path=", in_quotes(path));
  const std::optional<HfConfig> generation = read_config(path, "generation_config.json");

  ModelFolder folder{.path = path, .spec = read_spec(*config), .generation = {}, .config_dtype = stored_dtype(*config)};
  folder.generation.eos_token_ids = token_ids(*config, generation, "eos_token_id", folder.spec.vocab);
  const std::vector<int32_t> bos = token_ids(*config, generation, "bos_token_id", folder.spec.vocab);
  if (!bos.empty()) folder.generation.bos_token_id = bos.front();
  return folder;
}

}  // namespace quire
