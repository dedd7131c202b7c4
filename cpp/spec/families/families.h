#pragma once

#include "spec/hf_config.h"
#include "spec/name_map.h"
#include "spec/spec.h"

/// The function of every lineage, so that one can be told as a difference from another. table.cc lists the families.
namespace quire::families {

ModelSpec llama(const HfConfig& config);
ModelSpec mistral(const HfConfig& config);
ModelSpec qwen2(const HfConfig& config);
ModelSpec gpt2(const HfConfig& config);

}  // namespace quire::families

/// Weight names by layout of the checkpoint.
namespace quire::names {

NameMap llama();
NameMap gpt2();

}  // namespace quire::names
