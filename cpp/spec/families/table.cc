#include "spec/families/table.h"

#include <algorithm>
#include <string>

#include "core/check.h"
#include "core/quote.h"
#include "spec/families/families.h"

namespace quire {
namespace {

std::string known_architectures() {
  std::string names;
  for (const Family& row : family_table()) {
    for (const std::string_view architecture : row.architectures) {
      if (!names.empty()) names += ", ";
      names += architecture;
    }
  }
  return names;
}

const Family* family_of(std::string_view architecture) {
  for (const Family& row : family_table()) {
    if (std::find(row.architectures.begin(), row.architectures.end(), architecture) != row.architectures.end()) {
      return &row;
    }
  }
  return nullptr;
}

[[noreturn]] void refuse_unknown(const HfConfig& config, const std::vector<std::string>& architectures) {
  if (architectures.empty()) {
    config.refuse(ErrorKind::kInvalidArgument, "architectures", "missing field", "one of " + known_architectures());
  }
  const std::string name = in_quotes(architectures.front());
  if (config.has("auto_map")) {
    throw Error(ErrorKind::kUnsupported,
                detail::join_message("[", config.file(), "] architecture ", name,
                                     " is not built in and brings its own code (auto_map), but ", kNeedsFolderCode,
                                     ", whatever trust_remote_code says: architectures=", name, ", expected=one of ",
                                     known_architectures()));
  }
  throw Error(ErrorKind::kUnsupported,
              detail::join_message("[", config.file(), "] unknown architecture: architectures=", name,
                                   ", expected=one of ", known_architectures()));
}

void refuse_quantized(const HfConfig& config) {
  for (const char* const field : {"quantization_config", "compression_config"}) {
    if (const std::optional<HfConfig> section = config.section(field)) {
      section->refuse(ErrorKind::kUnsupported, "quant_method", "quantised weights", "weights in 16 or 32 bits");
    }
  }
}

}  // namespace

std::span<const Family> family_table() {
  static const std::vector<Family> rows = {
      {"llama", {"LlamaForCausalLM", "LLaMAForCausalLM"}, families::llama, names::llama},
      {"mistral", {"MistralForCausalLM"}, families::mistral, names::llama},
      {"qwen2", {"Qwen2ForCausalLM"}, families::qwen2, names::llama},
      {"gpt2", {"GPT2LMHeadModel"}, families::gpt2, names::gpt2},
  };
  return rows;
}

const Family& family_named(std::string_view name) {
  const auto rows = family_table();
  const auto found = std::find_if(rows.begin(), rows.end(), [&](const Family& row) { return row.name == name; });
  QUIRE_CHECK(found != rows.end(), "family=", name);
  return *found;
}

ModelSpec read_spec(const HfConfig& config) {
  const std::vector<std::string> architectures = config.strings("architectures");
  for (const std::string& architecture : architectures) {
    if (const Family* row = family_of(architecture)) {
      refuse_quantized(config);
      ModelSpec model = row->spec(config);
      model.family = row->name;
      model.architecture = architecture;
      return model;
    }
  }
  refuse_unknown(config, architectures);
}

}  // namespace quire
