#pragma once

#include "spec/hf_config.h"
#include "spec/hf_fields.h"
#include "spec/name_map.h"
#include "spec/spec.h"

/// The function of every lineage, so that one can be told as a difference from another. table.cc lists the families.
namespace quire::families {

// llama.cc
ModelSpec llama_with(const HfConfig& config, const RopeDefaults& defaults);
ModelSpec llama(const HfConfig& config);
ModelSpec internlm(const HfConfig& config);
ModelSpec decilm(const HfConfig& config);
ModelSpec orion(const HfConfig& config);
ModelSpec granite(const HfConfig& config);
ModelSpec llava(const HfConfig& config);

// mistral.cc
ModelSpec mistral(const HfConfig& config);
ModelSpec mixtral(const HfConfig& config);

// qwen.cc
ModelSpec qwen(const HfConfig& config);
ModelSpec qwen2(const HfConfig& config);
ModelSpec qwen2_moe(const HfConfig& config);
ModelSpec qwen3(const HfConfig& config);
ModelSpec qwen3_moe(const HfConfig& config);

// baichuan.cc
ModelSpec baichuan(const HfConfig& config);

// gemma.cc
ModelSpec gemma(const HfConfig& config);
ModelSpec gemma2(const HfConfig& config);
ModelSpec gemma3(const HfConfig& config);

// glm.cc
ModelSpec chatglm(const HfConfig& config);
ModelSpec glm4(const HfConfig& config);

// deepseek.cc
ModelSpec deepseek(const HfConfig& config);
ModelSpec deepseek_v2(const HfConfig& config);
ModelSpec deepseek_v3(const HfConfig& config);

// cohere.cc, olmo.cc, phi.cc, stablelm.cc, starcoder2.cc, gpt_oss.cc
ModelSpec cohere(const HfConfig& config);
ModelSpec cohere2(const HfConfig& config);
ModelSpec olmo(const HfConfig& config);
ModelSpec olmo_original(const HfConfig& config);
ModelSpec olmo2(const HfConfig& config);
ModelSpec phi(const HfConfig& config);
ModelSpec phi3(const HfConfig& config);
ModelSpec stablelm(const HfConfig& config);
ModelSpec starcoder2(const HfConfig& config);
ModelSpec gpt_oss(const HfConfig& config);

// gpt.cc
ModelSpec gpt2(const HfConfig& config);
ModelSpec gpt_bigcode(const HfConfig& config);
ModelSpec jais(const HfConfig& config);
ModelSpec gptj(const HfConfig& config);
ModelSpec gpt_neox(const HfConfig& config);
ModelSpec opt(const HfConfig& config);
ModelSpec bloom(const HfConfig& config);

// falcon.cc, mosaic.cc
ModelSpec falcon(const HfConfig& config);
ModelSpec mpt(const HfConfig& config);
ModelSpec dbrx(const HfConfig& config);

}  // namespace quire::families

/// Weight names by layout of the checkpoint. A few layouts depend on what the config says.
namespace quire::names {

// llama_names.cc
NameMap llama(const ModelSpec& spec);
NameMap llava(const ModelSpec& spec);
NameMap internlm2(const ModelSpec& spec);
NameMap baichuan(const ModelSpec& spec);
NameMap qwen(const ModelSpec& spec);
NameMap gemma2(const ModelSpec& spec);
NameMap chatglm(const ModelSpec& spec);
NameMap glm4(const ModelSpec& spec);
NameMap olmo_original(const ModelSpec& spec);
NameMap phi(const ModelSpec& spec);
NameMap phi3(const ModelSpec& spec);
NameMap stablelm(const ModelSpec& spec);
NameMap starcoder2(const ModelSpec& spec);

// moe_names.cc
NameMap mixtral(const ModelSpec& spec);
NameMap moe(const ModelSpec& spec);
NameMap deepseek(const ModelSpec& spec);
NameMap gpt_oss(const ModelSpec& spec);
NameMap dbrx(const ModelSpec& spec);

// gpt_names.cc
NameMap gpt2(const ModelSpec& spec);
NameMap gpt_bigcode(const ModelSpec& spec);
NameMap jais(const ModelSpec& spec);
NameMap gptj(const ModelSpec& spec);
NameMap gpt_neox(const ModelSpec& spec);
NameMap opt(const ModelSpec& spec);
NameMap bloom(const ModelSpec& spec);
NameMap falcon(const ModelSpec& spec);
NameMap mpt(const ModelSpec& spec);

}  // namespace quire::names
