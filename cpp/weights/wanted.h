#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

/// A weight that a spec asks for: its canonical name, its shape, and the place it goes to.
struct WantedWeight {
  std::string_view module;  ///< as NameRule::module
  int32_t layer = -1;       ///< of the modules of a layer
  bool is_bias = false;
  /// Output features of each part that is stacked into it: of q, k and v. Of a vector: its length, in one or more
  /// parts.
  std::vector<int64_t> outputs;
  int64_t inputs = 0;  ///< input features of a matrix; 0: a vector
  /// Which fields of config.json give the shape, for messages.
  std::string_view fields;
  bool unit_offset = false;  ///< one is added to what is stored
  /// A linear is packed by the backend, a matrix with a Tensor is a table of embeddings, a vector becomes float32.
  std::variant<PackedLinear*, Tensor*> destination;

  bool is_linear() const { return std::holds_alternative<PackedLinear*>(destination); }
  int64_t num_outputs() const;
};

/// All weights of a model, in the order of the file layouts that are usual. The destinations point into `weights`,
/// whose layers are made here. In a tied model the module "embedding" goes to the head, which serves as the table too.
std::vector<WantedWeight> wanted_weights(const ModelSpec& spec, ModelWeights& weights);

}  // namespace quire
