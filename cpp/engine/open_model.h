#pragma once

#include <memory>
#include <optional>

#include "backend/backend.h"
#include "quire/config.h"
#include "quire/engine.h"
#include "weights/checkpoint.h"
#include "weights/model_folder.h"
#include "weights/model_weights.h"

namespace quire {

/// A model folder that has been read but for its weights, with the backend that will run it and the memory divided.
struct OpenModel {
  ModelFolder folder;
  std::optional<Checkpoint> checkpoint;  ///< empty with load_format "dummy"
  std::unique_ptr<Backend> backend;
  /// Type to hold matrices in; unset: as stored.
  std::optional<DType> weight_dtype;
  /// Type that the model computes in, where the backend leaves a choice.
  DType dtype = DType::kFloat32;
  DType kv_dtype = DType::kFloat32;
  ModelDescription description;
  /// With every "auto" resolved.
  EngineConfig config;
};

/// Say in the log where the memory goes, then bring the weights into the backend's memory. Raises: as load_weights().
ModelWeights load_weights(const OpenModel& model, Stream& stream, const LoadProgress& progress);

/// Raises: as Engine::create().
OpenModel open_model(const EngineConfig& config);

}  // namespace quire
