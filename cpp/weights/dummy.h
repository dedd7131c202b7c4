#pragma once

#include <optional>

#include "backend/backend.h"
#include "weights/loader.h"
#include "weights/model_folder.h"
#include "weights/model_weights.h"

/// Weights without a checkpoint, so that any shape can be measured from its config.json alone. Matrices are random, of
/// a size that keeps activations near one; norms are ones and biases zero. The same on every run, and of any
/// number of ranks each has its share of the same.
namespace quire {

/// As check_weights(); what counts as stored is the config's type, or bfloat16 if it names none.
WeightSummary check_dummy_weights(const ModelFolder& folder, std::optional<DType> dtype, Rank rank = {});

/// As load_weights().
ModelWeights load_dummy_weights(const ModelFolder& folder, std::optional<DType> dtype, Backend& backend, Stream& stream,
                                Rank rank = {});

}  // namespace quire
