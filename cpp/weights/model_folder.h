#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "spec/spec.h"

namespace quire {

/// What generation_config.json and config.json say about generating; where both speak, the former counts.
struct GenerationDefaults {
  /// Sorted, no duplicates; each within the vocabulary.
  std::vector<int32_t> eos_token_ids;
  std::optional<int32_t> bos_token_id;
};

/// A model folder's JSON files, read and understood; no weight has been touched.
struct ModelFolder {
  std::string path;
  ModelSpec spec;
  GenerationDefaults generation;
  /// torch_dtype (or dtype) of config.json; empty if it says nothing.
  std::optional<DType> config_dtype;
};

/// Raises: kNotFound (folder, config.json), kInvalidArgument naming file, field and value, kUnsupported for an unknown
/// architecture (listing the known ones; see kNeedsFolderCode in spec/families/table.h) or a field value that its
/// family does not know.
ModelFolder read_model_folder(const std::string& path);

}  // namespace quire
