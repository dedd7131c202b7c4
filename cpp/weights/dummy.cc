#include "weights/dummy.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "weights/elements.h"
#include "weights/match.h"
#include "weights/shard.h"
#include "weights/wanted.h"

namespace quire {
namespace {

DType stored_type(const ModelFolder& folder) {
  return folder.config_dtype.value_or(DType::kBFloat16);
}

/// Random matrices as views of one piece of memory, whose rows overlap: a model of any size is made in the time that
/// packing takes.
class RandomMatrices {
 public:
  explicit RandomMatrices(DType dtype) : dtype_(dtype) {}

  /// `count` matrices [rows, columns] of numbers from -a to a, with a variance of 1 / columns.
  std::vector<Tensor> make(int64_t count, int64_t rows, int64_t columns) {
    constexpr int64_t kSize = 1 << 20;
    fill(std::max(kSize, rows + columns + count), columns);
    const int64_t step = (size_ - columns - count) / rows;
    std::vector<Tensor> matrices;
    for (int64_t i = 0; i < count; ++i) {
      Tensor matrix(memory_.data() + i * dtype_bytes(dtype_), dtype_, {rows, columns});
      matrix.strides[0] = step;
      matrices.push_back(matrix);
    }
    return matrices;
  }

 private:
  void fill(int64_t size, int64_t columns) {
    if (size == size_ && columns == columns_) return;
    size_ = size;
    columns_ = columns;
    std::vector<float> numbers(static_cast<size_t>(size));
    std::minstd_rand random;  // the same everywhere, which the library's distributions are not
    const float bound = std::sqrt(3.0f / static_cast<float>(columns));
    const auto range = static_cast<float>(std::minstd_rand::max());
    for (float& number : numbers) number = bound * (2 * static_cast<float>(random()) / range - 1);
    converted_copy(Tensor(numbers.data(), DType::kFloat32, {size}), dtype_, memory_);
  }

  DType dtype_;
  int64_t size_ = 0;
  int64_t columns_ = 0;
  std::vector<std::byte> memory_;
};

/// A rank's share of whole matrices, one of each group.
std::vector<Tensor> parts_of(const WantedWeight& weight, const WeightShare& share, const std::vector<Tensor>& groups) {
  std::vector<Tensor> views;
  for (int64_t group = share.groups.first; group < share.groups.first + share.groups.count; ++group) {
    const Tensor& whole = groups[static_cast<size_t>(group)];
    if (weight.flipped) {  // cut by groups only
      views.push_back(whole);
      continue;
    }
    int64_t first = 0;
    for (size_t part = 0; part < weight.outputs.size(); ++part) {
      if (weight.pick >= 0 && part != static_cast<size_t>(weight.pick)) continue;
      const Tensor piece = slice(whole, 0, first, weight.outputs[part]);
      append_share(std::vector{piece}, 0, share.outputs[part], views);
      first += weight.outputs[part];
    }
  }
  if (share.inputs.count != weight.inputs) {
    for (Tensor& view : views) view = slice(view, 1, share.inputs.first, share.inputs.count);
  }
  return views;
}

class DummyLoader {
 public:
  DummyLoader(DType stored, Backend& backend, Stream& stream, ModelWeights& weights, Rank rank)
      : random_(stored), backend_(backend), stream_(stream), weights_(weights), rank_(rank) {}

  void load(const WantedWeight& weight, DType held) {
    const WeightShare share = share_of(weight, rank_);
    const int64_t num_elements = share.num_elements(weight);
    if (num_elements == 0) return;
    const int64_t outputs = weight.num_elements() / (weight.groups * std::max<int64_t>(weight.inputs, 1));
    if (weight.is_linear()) {
      const int64_t rows = weight.flipped ? weight.inputs : outputs;
      const int64_t columns = weight.flipped ? outputs : weight.inputs;
      *std::get<PackedLinear*>(weight.destination) =
          backend_.pack_linear({.parts = parts_of(weight, share, random_.make(weight.groups, rows, columns)),
                                .groups = share.groups.count,
                                .dtype = held},
                               stream_);
    } else if (weight.inputs > 0) {
      place_table(weight, random_.make(1, outputs, weight.inputs).front(), held);
    } else {
      // Whatever is no bias is the weight of a norm, a sink or a router's correction.
      const float value = weight.is_bias ? 0.0f : 1.0f;
      std::vector<float> values(static_cast<size_t>(num_elements), value);
      const int64_t rows = std::max<int64_t>(share.rows, 1);
      Tensor vector(values.data(), DType::kFloat32, {rows, num_elements / rows});
      if (share.rows == 0) vector = Tensor(values.data(), DType::kFloat32, {num_elements});
      place(weight, vector);
    }
  }

 private:
  /// Some rows at a time: the whole table of a large vocabulary is a gibibyte.
  void place_table(const WantedWeight& weight, const Tensor& source, DType held) {
    constexpr int64_t kPieceBytes = 4 << 20;
    Tensor table(nullptr, held, {source.shape[0], source.shape[1]});
    Buffer buffer = backend_.allocate(static_cast<size_t>(table.bytes()), MemoryKind::kWeights);
    table.data = buffer.data();
    const int64_t at_once = std::max<int64_t>(1, kPieceBytes / (source.shape[1] * dtype_bytes(held)));
    std::vector<std::byte> copy;
    for (int64_t first = 0; first < source.shape[0]; first += at_once) {
      const int64_t count = std::min(at_once, source.shape[0] - first);
      const Tensor rows = converted_copy(source.rows(first, count), held, copy);
      backend_.copy_to_device(table.rows(first, count).data, rows.data, static_cast<size_t>(rows.bytes()), stream_);
    }
    *std::get<Tensor*>(weight.destination) = table;
    weights_.buffers.push_back(std::move(buffer));
  }

  void place(const WantedWeight& weight, Tensor source) {
    const auto bytes = static_cast<size_t>(source.bytes());
    Buffer buffer = backend_.allocate(bytes, MemoryKind::kWeights);
    backend_.copy_to_device(buffer.data(), source.data, bytes, stream_);
    source.data = buffer.data();
    *std::get<Tensor*>(weight.destination) = source;
    weights_.buffers.push_back(std::move(buffer));
  }

  RandomMatrices random_;
  Backend& backend_;
  Stream& stream_;
  ModelWeights& weights_;
  Rank rank_;
};

}  // namespace

WeightSummary check_dummy_weights(const ModelFolder& folder, std::optional<DType> dtype, Rank rank) {
  ModelWeights places;  // nothing is put there
  WeightSummary summary;
  const DType stored = stored_type(folder);
  for (const WantedWeight& weight : wanted_weights(folder.spec, places, rank.num_ranks)) {
    const DType held = held_type(weight, stored, dtype);
    const int64_t num_elements = share_of(weight, rank).num_elements(weight);
    if (weight.inputs > 0) summary.dtype = held;
    summary.bytes += num_elements * dtype_bytes(held);
    summary.num_parameters += num_elements;
  }
  return summary;
}

ModelWeights load_dummy_weights(const ModelFolder& folder, std::optional<DType> dtype, Backend& backend, Stream& stream,
                                Rank rank) {
  ModelWeights result;
  const DType stored = stored_type(folder);
  DummyLoader loader(stored, backend, stream, result, rank);
  for (const WantedWeight& weight : wanted_weights(folder.spec, result, rank.num_ranks)) {
    loader.load(weight, held_type(weight, stored, dtype));
  }
  return result;
}

}  // namespace quire
