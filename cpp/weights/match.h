#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "spec/name_map.h"
#include "weights/checkpoint.h"
#include "weights/model_folder.h"
#include "weights/shard.h"
#include "weights/wanted.h"

namespace quire {

/// A wanted weight, whose share of it is loaded, and where the checkpoint keeps it.
struct MatchedWeight {
  WantedWeight wanted;
  Rank rank;
  /// Tensors to stack along the outputs, in order: of each group in turn, or those that hold all groups.
  std::vector<std::string> sources;
  bool per_group = false;          ///< each group has sources of its own
  bool transposed = false;         ///< sources are [inputs, outputs]
  Split split = Split::kInOrder;   ///< of a source that holds several parts
  DType stored = DType::kFloat32;  ///< type of all sources
  DType held = DType::kFloat32;    ///< type in the backend's memory

  WeightShare share() const { return share_of(wanted, rank); }
  /// In the rank's memory.
  int64_t num_elements() const { return share().num_elements(wanted); }
  int64_t bytes() const { return num_elements() * dtype_bytes(held); }
  /// Sources of one group.
  size_t sources_per_group() const {
    return per_group ? sources.size() / static_cast<size_t>(wanted.groups) : sources.size();
  }
};

/// The type that a weight is held in. Vectors are float32 always. Widening 16 bits changes no value, so that float32
/// keeps a matrix as it is stored, unless its values are changed while it is loaded.
DType held_type(const WantedWeight& weight, DType stored, std::optional<DType> wanted);

/// Find the tensors of every weight that the folder's spec asks for, and check names, shapes and types. No tensor's
/// data is read. Destinations point into `weights`.
/// Raises: kInvalidArgument for tensors missing or left over, wrong shapes or types, and a `dtype` that weights cannot
/// be held in.
std::vector<MatchedWeight> match_weights(const ModelFolder& folder, const Checkpoint& checkpoint,
                                         std::optional<DType> dtype, ModelWeights& weights, Rank rank = {});

}  // namespace quire
