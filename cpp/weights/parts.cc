#include "weights/parts.h"

#include <cstddef>

#include "core/check.h"
#include "weights/shard.h"

namespace quire {
namespace {

/// One group of a tensor that holds them all, along an axis of their own or one behind the other.
Tensor group_of(const Tensor& tensor, int64_t group, int64_t groups, int rank) {
  if (tensor.rank == rank) return slice(tensor, 0, tensor.shape[0] / groups * group, tensor.shape[0] / groups);
  Tensor view = slice(tensor, 0, group, 1);
  view.rank = rank;
  for (int axis = 0; axis < rank; ++axis) {
    view.shape[axis] = tensor.shape[axis + 1];
    view.strides[axis] = tensor.strides[axis + 1];
  }
  return view;
}

/// Cuts one source into the parts that it holds.
class Splitter {
 public:
  Splitter(const MatchedWeight& weight, const Tensor& source)
      : want_(weight.wanted), split_(weight.split), axis_(weight.transposed ? 1 : 0), source_(source) {}

  void append(size_t part, std::vector<Tensor>& views) const {
    const int64_t size = want_.outputs[part];
    switch (split_) {
      case Split::kInOrder: return views.push_back(slice(source_, axis_, sum(0, part), size));
      case Split::kReversed: return views.push_back(slice(source_, axis_, sum(part + 1, want_.outputs.size()), size));
      case Split::kAlternating:
        return views.push_back(
            slice(source_, axis_, static_cast<int64_t>(part), size, static_cast<int64_t>(want_.outputs.size())));
      case Split::kByKvHead:
        QUIRE_CHECK(want_.kv_heads > 0, "module=", want_.module);
        for (int64_t head = 0; head < want_.kv_heads; ++head) {
          const int64_t first = (head * want_.stored_outputs() + sum(0, part)) / want_.kv_heads;
          views.push_back(slice(source_, axis_, first, size / want_.kv_heads));
        }
    }
  }

 private:
  int64_t sum(size_t begin, size_t end) const {
    int64_t total = 0;
    for (size_t i = begin; i < end; ++i) total += want_.outputs[i];
    return total;
  }

  const WantedWeight& want_;
  Split split_;
  int axis_;
  const Tensor& source_;
};

/// One part of one group, whole, as one piece or several.
std::vector<Tensor> part_of(const MatchedWeight& weight, const Checkpoint& checkpoint, int64_t group, size_t part) {
  const WantedWeight& want = weight.wanted;
  const size_t per_group = weight.sources_per_group();
  const int rank = want.inputs > 0 ? 2 : 1;
  const size_t source = per_group == 1 ? 0 : part;
  const size_t first = weight.per_group ? static_cast<size_t>(group) * per_group : 0;
  Tensor tensor = *checkpoint.find(weight.sources[first + source]);
  if (want.groups > 1 && !weight.per_group) tensor = group_of(tensor, group, want.groups, rank);
  if (per_group > 1 || want.outputs.size() == 1) return {tensor};
  if (tensor.rank > rank) return {slice(tensor, 0, static_cast<int64_t>(part), 1)};  // a row for each part
  std::vector<Tensor> pieces;
  Splitter(weight, tensor).append(part, pieces);
  return pieces;
}

}  // namespace

std::vector<Tensor> weight_parts(const MatchedWeight& weight, const Checkpoint& checkpoint) {
  const WantedWeight& want = weight.wanted;
  const WeightShare share = weight.share();
  const int outputs_axis = weight.transposed ? 1 : 0;
  std::vector<Tensor> views;
  for (int64_t group = share.groups.first; group < share.groups.first + share.groups.count; ++group) {
    for (size_t part = 0; part < want.outputs.size(); ++part) {
      const Share outputs = share.outputs[part];
      if ((want.pick >= 0 && part != static_cast<size_t>(want.pick)) || outputs.count == 0) continue;
      const std::vector<Tensor> pieces = part_of(weight, checkpoint, group, part);
      if (outputs.count == want.outputs[part]) {
        views.insert(views.end(), pieces.begin(), pieces.end());
      } else {
        append_share(pieces, outputs_axis, outputs, views);
      }
    }
  }
  if (share.inputs.count != want.inputs) {
    for (Tensor& view : views) view = slice(view, 1 - outputs_axis, share.inputs.first, share.inputs.count);
  }
  return views;
}

}  // namespace quire
