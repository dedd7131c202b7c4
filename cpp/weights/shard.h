#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/share.h"
#include "core/tensor.h"
#include "spec/spec.h"
#include "weights/wanted.h"

/// Which part of a model a rank has, when several compute it together (tensor parallelism).
///
/// Attention is cut by heads and a feed-forward part by its columns: products in front of them by outputs, products
/// behind them by inputs, so that each part of a layer is a sum over the ranks. Of each expert a rank has a share of
/// its columns. The head is cut by rows. Every rank holds norms, routers, the embeddings and what latent attention
/// shares between heads. Fewer key and value heads than ranks are held by several of them.
namespace quire {

/// The spec of what one rank computes. One rank alone has the whole.
/// Raises: kInvalidArgument for a number that cannot be dealt out evenly, naming the field and the sizes that can.
ModelSpec shard_of(const ModelSpec& whole, Rank rank);

/// What a rank holds of a weight.
struct WeightShare {
  std::vector<Share> outputs;  ///< of each part
  Share inputs;
  Share groups;  ///< none: the rank does not hold the weight
  int64_t rows = 0;

  int64_t num_elements(const WantedWeight& weight) const;
};
WeightShare share_of(const WantedWeight& weight, Rank rank);

/// `count` indices along an axis, `step` apart.
Tensor slice(const Tensor& tensor, int axis, int64_t first, int64_t count, int64_t step = 1);

/// Of pieces that stand one behind the other along an axis, the indices of a share.
void append_share(std::span<const Tensor> pieces, int axis, Share share, std::vector<Tensor>& views);

}  // namespace quire
