#include "weights/shard.h"

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "core/check.h"

namespace quire {
namespace {

/// A number of a model that keeps it from being cut.
struct Obstacle {
  std::string_view field;
  int64_t value = 0;
};

std::optional<Obstacle> obstacle_of(const Layer& layer, int32_t num_ranks) {
  const Attention& attention = layer.attention;
  if (attention.heads % num_ranks != 0) return Obstacle{"num_attention_heads", attention.heads};
  const int32_t kv_heads = attention.kv_heads;
  if (!attention.latent && kv_heads % num_ranks != 0 && num_ranks % kv_heads != 0) {
    return Obstacle{"num_key_value_heads", kv_heads};
  }
  const bool has_experts = layer.ffn.moe.has_value();
  if (layer.ffn.width % num_ranks != 0) {
    return Obstacle{has_experts ? "moe_intermediate_size" : "intermediate_size", layer.ffn.width};
  }
  if (has_experts && layer.ffn.moe->shared_width % num_ranks != 0) {
    return Obstacle{"shared_expert_intermediate_size", layer.ffn.moe->shared_width};
  }
  return std::nullopt;
}

std::optional<Obstacle> obstacle_of(const ModelSpec& spec, int32_t num_ranks) {
  for (const Layer& layer : spec.layers) {
    if (const auto obstacle = obstacle_of(layer, num_ranks)) return obstacle;
  }
  // Of so few tokens the last rank would have none.
  if (share_of_rank(spec.vocab, num_ranks - 1, num_ranks).count == 0) return Obstacle{"vocab_size", spec.vocab};
  return std::nullopt;
}

/// "1, 2 or 4"
std::string sizes_that_fit(const ModelSpec& spec) {
  std::vector<int32_t> sizes;
  for (int32_t size = 1; size <= spec.layers.front().attention.heads; ++size) {
    if (!obstacle_of(spec, size)) sizes.push_back(size);
  }
  std::string text;
  for (size_t i = 0; i < sizes.size(); ++i) {
    text += (i == 0 ? "" : i + 1 < sizes.size() ? ", " : " or ") + std::to_string(sizes[i]);
  }
  return text;
}

/// A rank's heads or columns. Of fewer heads than ranks each rank has one, which others have too.
Share share_of_units(int64_t units, Rank rank) {
  if (units < rank.num_ranks) return {rank.index * units / rank.num_ranks, 1};
  return share_of_rank(units, rank.index, rank.num_ranks);
}

/// The same of `size` outputs or inputs, of which every unit has as many.
Share cut(int64_t size, int64_t units, Rank rank) {
  if (units == 0) return {0, size};
  const Share share = share_of_units(units, rank);
  return {size / units * share.first, size / units * share.count};
}

}  // namespace

ModelSpec shard_of(const ModelSpec& whole, Rank rank) {
  ModelSpec local = whole;
  local.rank = rank;
  if (rank.num_ranks == 1) return local;
  QUIRE_CHECK(rank.index >= 0 && rank.index < rank.num_ranks && whole.rank.num_ranks == 1, "rank=", rank.index, " of ",
              rank.num_ranks);
  if (const auto obstacle = obstacle_of(whole, rank.num_ranks)) {
    throw Error(ErrorKind::kInvalidArgument,
                detail::join_message("[parallel] the model cannot be dealt out evenly to that many ranks: ",
                                     obstacle->field, "=", obstacle->value, ", tensor_parallel_size=", rank.num_ranks,
                                     ": set tensor_parallel_size to ", sizes_that_fit(whole)));
  }
  local.for_attention([&](Attention& attention) {
    const Share heads = share_of_units(attention.heads, rank);
    // Latent attention has one key for all heads, whatever config.json says.
    const Share kv_heads = attention.latent ? heads : share_of_units(attention.kv_heads, rank);
    attention.all = AllHeads{.heads = attention.heads,
                             .kv_heads = attention.kv_heads,
                             .first = static_cast<int32_t>(heads.first),
                             .first_kv = static_cast<int32_t>(kv_heads.first)};
    attention.heads = static_cast<int32_t>(heads.count);
    attention.kv_heads = static_cast<int32_t>(kv_heads.count);
  });
  local.for_ffn([&](Ffn& ffn) {
    ffn.width /= rank.num_ranks;
    if (ffn.moe) ffn.moe->shared_width /= rank.num_ranks;
  });
  return local;
}

WeightShare share_of(const WantedWeight& weight, Rank rank) {
  WeightShare share{.outputs = {}, .inputs = {0, weight.inputs}, .groups = {0, weight.groups}, .rows = weight.rows};
  const Cut& how = weight.cut;
  for (const int64_t size : weight.outputs) share.outputs.push_back({0, size});
  if (rank.num_ranks == 1) return share;
  switch (how.along) {
    case Cut::Along::kNothing: break;
    case Cut::Along::kOutputs:
      for (size_t part = 0; part < how.units.size(); ++part) {
        share.outputs[part] = cut(weight.outputs[part], how.units[part], rank);
      }
      break;
    case Cut::Along::kInputs: share.inputs = cut(weight.inputs, how.units.front(), rank); break;
    case Cut::Along::kGroups: share.groups = share_of_units(weight.groups, rank); break;
    case Cut::Along::kParts: {
      const Share parts = share_of_units(static_cast<int64_t>(weight.outputs.size()), rank);
      for (size_t part = 0; part < share.outputs.size(); ++part) {
        const int64_t place = static_cast<int64_t>(part) - parts.first;
        if (place < 0 || place >= parts.count) share.outputs[part].count = 0;
      }
      if (weight.rows > 0) share.rows = parts.count;
      break;
    }
    case Cut::Along::kFirstRank:
      if (rank.index > 0) share.groups.count = 0;
      break;
  }
  return share;
}

int64_t WeightShare::num_elements(const WantedWeight& weight) const {
  int64_t num_outputs = 0;
  for (size_t part = 0; part < outputs.size(); ++part) {
    if (weight.pick < 0 || part == static_cast<size_t>(weight.pick)) num_outputs += outputs[part].count;
  }
  return groups.count * num_outputs * std::max<int64_t>(inputs.count, 1);
}

Tensor slice(const Tensor& tensor, int axis, int64_t first, int64_t count, int64_t step) {
  Tensor view = tensor;
  const int64_t offset = first * tensor.strides[axis] * dtype_bytes(tensor.dtype);
  view.data = static_cast<std::byte*>(tensor.data) + offset;
  view.shape[axis] = count;
  view.strides[axis] *= step;
  return view;
}

void append_share(std::span<const Tensor> pieces, int axis, Share share, std::vector<Tensor>& views) {
  int64_t place = 0;
  for (const Tensor& piece : pieces) {
    const int64_t size = piece.shape[axis];
    const int64_t begin = std::max(share.first - place, int64_t{0});
    const int64_t end = std::min(share.first + share.count - place, size);
    if (begin < end) views.push_back(slice(piece, axis, begin, end - begin));
    place += size;
  }
}

}  // namespace quire
