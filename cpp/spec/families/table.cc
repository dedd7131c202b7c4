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
  namespace f = families;
  namespace n = names;
  static const std::vector<Family> rows = {
      {"llama", {"LlamaForCausalLM", "LLaMAForCausalLM"}, f::llama, n::llama},
      {"internlm", {"InternLMForCausalLM"}, f::internlm, n::llama},
      {"internlm2", {"InternLM2ForCausalLM"}, f::internlm, n::internlm2},
      {"aquila", {"AquilaModel", "AquilaForCausalLM"}, f::llama, n::llama},
      {"xverse", {"XverseForCausalLM"}, f::llama, n::llama},
      {"decilm", {"DeciLMForCausalLM"}, f::decilm, n::llama},
      {"orion", {"OrionForCausalLM"}, f::orion, n::llama},
      {"granite", {"GraniteForCausalLM"}, f::granite, n::llama},
      {"llava", {"LlavaForConditionalGeneration"}, f::llava, n::llava},
      {"mistral", {"MistralForCausalLM"}, f::mistral, n::llama},
      {"mixtral", {"MixtralForCausalLM", "QuantMixtralForCausalLM"}, f::mixtral, n::mixtral},
      {"qwen", {"QWenLMHeadModel"}, f::qwen, n::qwen},
      {"qwen2", {"Qwen2ForCausalLM"}, f::qwen2, n::llama},
      {"qwen2_moe", {"Qwen2MoeForCausalLM"}, f::qwen2_moe, n::moe},
      {"qwen3", {"Qwen3ForCausalLM"}, f::qwen3, n::llama},
      {"qwen3_moe", {"Qwen3MoeForCausalLM"}, f::qwen3_moe, n::moe},
      {"baichuan_7b", {"BaiChuanForCausalLM"}, f::llama, n::baichuan},
      {"baichuan", {"BaichuanForCausalLM"}, f::baichuan, n::baichuan},
      {"gemma", {"GemmaForCausalLM"}, f::gemma, n::llama},
      {"gemma2", {"Gemma2ForCausalLM"}, f::gemma2, n::gemma2},
      {"gemma3", {"Gemma3ForCausalLM"}, f::gemma3, n::gemma2},
      {"chatglm", {"ChatGLMModel", "ChatGLMForConditionalGeneration"}, f::chatglm, n::chatglm},
      {"glm4", {"Glm4ForCausalLM"}, f::glm4, n::glm4},
      {"deepseek", {"DeepseekForCausalLM"}, f::deepseek, n::deepseek},
      {"deepseek_v2", {"DeepseekV2ForCausalLM"}, f::deepseek_v2, n::deepseek},
      {"deepseek_v3", {"DeepseekV3ForCausalLM"}, f::deepseek_v3, n::deepseek},
      {"cohere", {"CohereForCausalLM"}, f::cohere, n::llama},
      {"cohere2", {"Cohere2ForCausalLM"}, f::cohere2, n::llama},
      {"olmo", {"OlmoForCausalLM"}, f::olmo, n::llama},
      {"olmo_original", {"OLMoForCausalLM"}, f::olmo_original, n::olmo_original},
      {"olmo2", {"Olmo2ForCausalLM"}, f::olmo2, n::gemma2},
      {"phi", {"PhiForCausalLM"}, f::phi, n::phi},
      {"phi3", {"Phi3ForCausalLM"}, f::phi3, n::phi3},
      {"stablelm", {"StableLmForCausalLM", "StableLMEpochForCausalLM"}, f::stablelm, n::stablelm},
      {"starcoder2", {"Starcoder2ForCausalLM"}, f::starcoder2, n::starcoder2},
      {"gpt_oss", {"GptOssForCausalLM"}, f::gpt_oss, n::gpt_oss},
      {"gpt2", {"GPT2LMHeadModel"}, f::gpt2, n::gpt2},
      {"gpt_bigcode", {"GPTBigCodeForCausalLM"}, f::gpt_bigcode, n::gpt_bigcode},
      {"jais", {"JAISLMHeadModel"}, f::jais, n::jais},
      {"gptj", {"GPTJForCausalLM"}, f::gptj, n::gptj},
      {"gpt_neox", {"GPTNeoXForCausalLM"}, f::gpt_neox, n::gpt_neox},
      {"opt", {"OPTForCausalLM"}, f::opt, n::opt},
      {"bloom", {"BloomForCausalLM"}, f::bloom, n::bloom},
      {"falcon", {"FalconForCausalLM", "RWForCausalLM"}, f::falcon, n::falcon},
      {"mpt", {"MPTForCausalLM", "MptForCausalLM"}, f::mpt, n::mpt},
      {"dbrx", {"DbrxForCausalLM"}, f::dbrx, n::dbrx},
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
