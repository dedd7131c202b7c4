#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "spec/hf_config.h"
#include "spec/name_map.h"
#include "spec/spec.h"

namespace quire {

/// One row: a family and what it takes to read it.
struct Family {
  std::string_view name;
  /// As in the `architectures` of config.json.
  std::vector<std::string_view> architectures;
  ModelSpec (*spec)(const HfConfig&);
  NameMap (*names)(const ModelSpec&);
};

/// The table, in the order in which users are told of it.
std::span<const Family> family_table();

/// The row of a family by its name (ModelSpec::family). Raises: kInternal if there is none.
const Family& family_named(std::string_view name);

/// Read config.json into a spec by the row of its architecture.
///
/// Raises: kUnsupported for an unknown architecture, listing the known ones; if the config asks for code from the
/// model's folder (`auto_map`) the message holds kNeedsFolderCode. kUnsupported for weights with a quantization_config.
/// kInvalidArgument naming file, field and value.
ModelSpec read_spec(const HfConfig& config);

/// What the error about an unknown architecture with code of its own says, word for word: the Python package knows it
/// by this and raises RuntimeError, as users of trust_remote_code expect.
constexpr std::string_view kNeedsFolderCode = "quire never runs code from a model folder";

}  // namespace quire
