#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "backend/backend.h"
#include "quire/config.h"
#include "quire/engine.h"
#include "weights/checkpoint.h"
#include "weights/model_folder.h"

namespace quire {

/// A model folder that has been read but for its weights, with the backends that will run it and the memory divided.
struct OpenModel {
  ModelFolder folder;
  std::optional<Checkpoint> checkpoint;            ///< empty with load_format "dummy"
  std::vector<std::unique_ptr<Backend>> backends;  ///< of the ranks
  /// Type to hold matrices in; unset: as stored.
  std::optional<DType> weight_dtype;
  /// Type that the model computes in, where the backend leaves a choice.
  DType dtype = DType::kFloat32;
  DType kv_dtype = DType::kFloat32;
  int32_t rows_per_slice = 0;  ///< RunnerConfig::rows_per_slice
  ModelDescription description;
  /// With every "auto" resolved.
  EngineConfig config;
};

/// Raises: as Engine::create().
OpenModel open_model(const EngineConfig& config);

}  // namespace quire
