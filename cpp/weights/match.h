#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "weights/checkpoint.h"
#include "weights/model_folder.h"
#include "weights/wanted.h"

namespace quire {

/// A wanted weight and where the checkpoint keeps it.
struct MatchedWeight {
  WantedWeight wanted;
  /// Tensors to stack along the outputs, in order.
  std::vector<std::string> sources;
  bool transposed = false;         ///< sources are [inputs, outputs]
  DType stored = DType::kFloat32;  ///< type of all sources
  DType held = DType::kFloat32;    ///< type in the backend's memory

  /// In the backend's memory.
  int64_t bytes() const;
};

/// Find the tensors of every weight that the folder's spec asks for, and check names, shapes and types. No tensor's
/// data is read. Destinations point into `weights`.
/// Raises: kInvalidArgument for tensors missing or left over, wrong shapes or types, and a `dtype` that weights cannot
/// be held in.
std::vector<MatchedWeight> match_weights(const ModelFolder& folder, const Checkpoint& checkpoint,
                                         std::optional<DType> dtype, ModelWeights& weights);

}  // namespace quire
