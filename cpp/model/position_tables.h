#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "backend/backend.h"
#include "core/buffer.h"
#include "core/tensor.h"
#include "spec/spec.h"

namespace quire {

/// Cosines and sines of one kind of rotary positions: a row for each position of the first set of angles, then of the
/// second (RaggedBatch::rope_rows).
struct RopeTable {
  Rope rope;
  Tensor cos, sin;      ///< [P, R/2] float32
  Tensor q_cos, q_sin;  ///< of queries; the same, unless those are scaled by their position
};

/// What a layer knows of positions beside the tokens' order; null where it has no such thing.
struct LayerPositions {
  const RopeTable* rope = nullptr;
  const float* alibi_slopes = nullptr;  ///< [H]
};

/// The position tables of a model, in a backend's memory: one per distinct Rope or Alibi among its layers.
///
/// A row depends on its position and set alone, never on how far a sequence has come, so that keys in the cache stay
/// right however the sequence grew or was recomputed. Angles are rounded to float32 before cosine and sine, as the
/// models were trained.
class PositionTables {
 public:
  PositionTables(const ModelSpec& spec, int32_t num_positions, Backend& backend, Stream& stream);

  /// Bytes that the rope tables of a model take; the slopes are a few hundred.
  static int64_t bytes(const ModelSpec& spec, int32_t num_positions);

  const LayerPositions& of_layer(size_t layer) const { return layers_[layer]; }

 private:
  struct Slopes {
    Alibi alibi;
    int32_t first = 0, heads = 0;
    double scale = 0;
    const float* values = nullptr;
  };

  const RopeTable* rope_table(const Rope& rope);
  const float* alibi_slopes(const Alibi& alibi, const Attention& attention);
  void fill(const Rope& rope, std::vector<float>& cos, std::vector<float>& sin) const;
  void* upload(const std::vector<float>& values);

  Backend& backend_;
  Stream& stream_;
  int32_t num_positions_;
  int32_t num_sets_;
  std::deque<RopeTable> ropes_;
  std::vector<Slopes> slopes_;
  std::vector<Buffer> buffers_;
  std::vector<LayerPositions> layers_;
};

}  // namespace quire
