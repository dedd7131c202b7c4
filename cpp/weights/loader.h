#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "backend/backend.h"
#include "weights/checkpoint.h"
#include "weights/model_folder.h"
#include "weights/model_weights.h"

namespace quire {

/// What the weights of a rank will take, known from names, shapes and types alone.
struct WeightSummary {
  int64_t num_parameters = 0;
  int64_t bytes = 0;              ///< as they will be held
  DType dtype = DType::kFloat32;  ///< of most of the matrices, after `dtype` was applied
};

/// Match a checkpoint's tensors with what the spec wants, names and shapes, without reading a weight.
/// Raises: kInvalidArgument for missing or left-over tensors (the first five and the count), wrong shapes and types.
WeightSummary check_weights(const ModelFolder& folder, const Checkpoint& checkpoint, std::optional<DType> dtype,
                            Rank rank = {});

/// Read a rank's share of the checkpoint into its backend's memory. `dtype`: type to hold matrices in; unset: as
/// stored; float32 keeps 16-bit matrices as stored, since widening them changes no value. `progress` is called with the
/// share done, in [0, 1]. Raises: as check_weights; kOutOfMemory. Thread safety: ranks may read the same checkpoint at
/// the same time.
ModelWeights load_weights(const ModelFolder& folder, const Checkpoint& checkpoint, std::optional<DType> dtype,
                          Backend& backend, Stream& stream, const std::function<void(double)>& progress = {},
                          Rank rank = {});

}  // namespace quire
