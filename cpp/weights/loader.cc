#include "weights/loader.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <initializer_list>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "weights/elements.h"
#include "weights/match.h"
#include "weights/parts.h"
#include "weights/read_ahead.h"

namespace quire {
namespace {

constexpr int kReadingThreads = 4;

/// Divide each row of a contiguous float32 matrix by its length, as torch.nn.functional.normalize does.
void make_rows_unit(const Tensor& matrix) {
  constexpr double kShortest = 1e-12;
  for (int64_t row = 0; row < matrix.shape[0]; ++row) {
    const std::span values(matrix.as<float>() + row * matrix.shape[1], static_cast<size_t>(matrix.shape[1]));
    double squares = 0;
    for (const float value : values) squares += double{value} * value;
    const double length = std::max(std::sqrt(squares), kShortest);
    for (float& value : values) value = static_cast<float>(value / length);
  }
}

/// Brings matched weights into a backend's memory, one after the other.
class Loader {
 public:
  Loader(const Checkpoint& checkpoint, Backend& backend, Stream& stream, ModelWeights& weights)
      : checkpoint_(checkpoint), backend_(backend), stream_(stream), weights_(weights) {}

  void load(const MatchedWeight& weight) {
    if (weight.num_elements() == 0) return;
    for (const std::string& name : weight.sources) checkpoint_.check_unchanged(name);
    if (weight.wanted.is_linear()) {
      load_linear(weight);
    } else if (weight.wanted.inputs > 0) {
      load_table(weight);
    } else {
      load_vector(weight);
    }
  }

 private:
  /// Straight from the mapping, but for tensors that are not aligned for their type or whose numbers change: those are
  /// copied first.
  void load_linear(const MatchedWeight& weight) {
    LinearSource source{.parts = weight_parts(weight, checkpoint_),
                        .groups = weight.share().groups.count,
                        .transposed = weight.transposed != weight.wanted.flipped,
                        .dtype = weight.held};
    std::vector<std::vector<std::byte>> copies;
    for (Tensor& part : source.parts) {
      if (weight.wanted.fold == Fold::kUnitRows) {
        part = converted_copy(part, DType::kFloat32, copies.emplace_back());
        make_rows_unit(part);
      } else if (!is_aligned(part)) {
        part = contiguous_copy(part, copies.emplace_back());
      }
    }
    *std::get<PackedLinear*>(weight.wanted.destination) = backend_.pack_linear(source, stream_);
  }

  void load_table(const MatchedWeight& weight) {
    const Tensor tensor = weight_parts(weight, checkpoint_).front();
    std::vector<std::byte> copy;
    const bool as_is = weight.held == tensor.dtype && is_contiguous(tensor);
    const void* data = as_is ? tensor.data : converted_copy(tensor, weight.held, copy).data;
    place(weight, {tensor.shape[0], tensor.shape[1]}, data);
  }

  void load_vector(const MatchedWeight& weight) {
    std::vector<float> values;
    values.reserve(weight.num_elements());
    for (const Tensor& part : weight_parts(weight, checkpoint_)) append_as_float(part, values);
    if (weight.wanted.fold == Fold::kUnitOffset) {
      for (float& value : values) value += 1.0f;
    }
    const auto size = static_cast<int64_t>(values.size());
    if (const int64_t rows = weight.share().rows; rows > 0) {
      place(weight, {rows, size / rows}, values.data());
    } else {
      place(weight, {size}, values.data());
    }
  }

  void place(const MatchedWeight& weight, std::initializer_list<int64_t> shape, const void* data) {
    Buffer buffer = backend_.allocate(weight.bytes(), MemoryKind::kWeights);
    backend_.copy_to_device(buffer.data(), data, weight.bytes(), stream_);
    *std::get<Tensor*>(weight.wanted.destination) = Tensor(buffer.data(), weight.held, shape);
    weights_.buffers.push_back(std::move(buffer));
  }

  const Checkpoint& checkpoint_;
  Backend& backend_;
  Stream& stream_;
  ModelWeights& weights_;
};

/// Type of most elements of the matrices.
DType most_common_type(const std::vector<MatchedWeight>& weights) {
  std::map<DType, int64_t> elements;
  for (const MatchedWeight& weight : weights) {
    if (weight.wanted.inputs > 0) elements[weight.held] += weight.bytes() / dtype_bytes(weight.held);
  }
  return std::max_element(elements.begin(), elements.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

}  // namespace

WeightSummary check_weights(const ModelFolder& folder, const Checkpoint& checkpoint, std::optional<DType> dtype,
                            Rank rank) {
  ModelWeights places;  // nothing is put there
  const std::vector<MatchedWeight> weights = match_weights(folder, checkpoint, dtype, places, rank);
  WeightSummary summary{.dtype = most_common_type(weights)};
  for (const MatchedWeight& weight : weights) {
    summary.bytes += weight.bytes();
    summary.num_parameters += weight.num_elements();
  }
  return summary;
}

ModelWeights load_weights(const ModelFolder& folder, const Checkpoint& checkpoint, std::optional<DType> dtype,
                          Backend& backend, Stream& stream, const std::function<void(double)>& progress, Rank rank) {
  ModelWeights result;
  const std::vector<MatchedWeight> weights = match_weights(folder, checkpoint, dtype, result, rank);
  int64_t total = 0;
  for (const MatchedWeight& weight : weights) total += weight.bytes();

  std::vector<std::string> names;
  for (const MatchedWeight& weight : weights) names.insert(names.end(), weight.sources.begin(), weight.sources.end());
  // A GPU's packing is a copy, which waits for the disk and for pages to be mapped; the CPU's uses all cores itself.
  // What is read for the first rank is there for those that follow.
  ReadAhead ahead(checkpoint, std::move(names), backend.runs_behind() && rank.index == 0 ? kReadingThreads : 0);

  Loader loader(checkpoint, backend, stream, result);
  int64_t done = 0;
  size_t num_copied = 0;
  for (const MatchedWeight& weight : weights) {
    ahead.come_to(num_copied);
    loader.load(weight);
    // Of several ranks another may still read it.
    if (rank.num_ranks == 1) {
      for (const std::string& name : weight.sources) checkpoint.drop(name);
    }
    num_copied += weight.sources.size();
    done += weight.bytes();
    if (progress) progress(static_cast<double>(done) / static_cast<double>(total));
  }
  return result;
}

}  // namespace quire
