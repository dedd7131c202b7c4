#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "core/tensor.h"
#include "spec/spec.h"

namespace quire {

/// Cosines and sines of one kind of rotary positions.
struct RopeTable {
  Rope rope;
  Tensor cos;  ///< [P, R/2] float32
  Tensor sin;  ///< [P, R/2] float32
};

/// The tables of a model: one per distinct Rope among its layers.
///
/// A row depends on its position alone, never on the length of the sequence, so that keys in the cache stay right
/// however the sequence grew or was recomputed. Angles are rounded to float32 before cosine and sine, as the models
/// were trained.
class RopeTables {
 public:
  RopeTables(const ModelSpec& spec, int32_t num_positions, Backend& backend, Stream& stream);

  /// The table of a layer, or null if it has no rotary positions.
  const RopeTable* of_layer(size_t layer) const { return index_[layer] < 0 ? nullptr : &tables_[index_[layer]]; }

 private:
  void add_table(const Rope& rope, int32_t num_positions, Backend& backend, Stream& stream);

  std::vector<RopeTable> tables_;
  std::vector<int> index_;
  std::vector<Buffer> buffers_;
};

}  // namespace quire
