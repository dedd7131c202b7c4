#pragma once

#include <cstdint>
#include <string_view>
#include <variant>
#include <vector>

#include "spec/spec.h"
#include "weights/model_weights.h"

namespace quire {

/// What is done to a weight's numbers while it is loaded.
enum class Fold {
  kNone,
  kUnitOffset,  ///< one is added
  kUnitRows     ///< each row of a matrix is divided by its length
};

/// How a weight is dealt out to the ranks that compute a model together (weights/shard.h).
struct Cut {
  enum class Along {
    kNothing,   ///< every rank holds all of it
    kOutputs,   ///< of each part a rank holds its share of `units`
    kInputs,    ///< of the inputs its share of `units`
    kGroups,    ///< some of the groups
    kParts,     ///< some of the parts
    kFirstRank  ///< the first rank holds it alone: what is added to a sum over the ranks, once
  };
  Along along = Along::kNothing;
  /// Heads or columns, each of which goes to a rank as a whole: of each part, or of the inputs. 0: not cut.
  std::vector<int64_t> units = {};
};

/// A weight that a spec asks for: its canonical name, its shape, and the place it goes to.
struct WantedWeight {
  std::string_view module;  ///< as NameRule::module
  int32_t layer = -1;       ///< of the modules of a layer
  bool is_bias = false;
  /// Output features of each part that is stacked into it: of q, k and v. Of a vector: its length, in one or more
  /// parts.
  std::vector<int64_t> outputs;
  int64_t inputs = 0;  ///< input features of a matrix; 0: a vector
  /// Matrices or vectors of that shape, one for each expert, or for each head of one that is stored head after head.
  int64_t groups = 1;
  /// Only this of the parts is wanted; -1: all.
  int pick = -1;
  /// The matrix is applied the other way round, from its outputs to its inputs.
  bool flipped = false;
  int64_t kv_heads = 0;  ///< for Split::kByKvHead
  /// Rows of the tensor that a vector of several becomes; 0: it stays a vector.
  int64_t rows = 0;
  /// Which fields of config.json give the shape, for messages.
  std::string_view fields;
  Fold fold = Fold::kNone;
  Cut cut;
  /// A linear is packed by the backend, a matrix with a Tensor is a table of embeddings, a vector becomes float32.
  std::variant<PackedLinear*, Tensor*> destination;

  bool is_linear() const { return std::holds_alternative<PackedLinear*>(destination); }
  /// Outputs of all parts of one group, wanted or not.
  int64_t stored_outputs() const;
  /// Elements of the weight in all its groups.
  int64_t num_elements() const;
};

/// All weights of a whole model, in the order of the file layouts that are usual. The destinations point into
/// `weights`, whose layers are made here. In a tied model the module "embedding" goes to the head, which serves as the
/// table too; of several ranks each has the whole table and a share of the head.
std::vector<WantedWeight> wanted_weights(const ModelSpec& spec, ModelWeights& weights, int32_t num_ranks = 1);

}  // namespace quire
