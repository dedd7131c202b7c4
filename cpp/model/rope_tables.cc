#include "model/rope_tables.h"

#include <cmath>
#include <span>

#include "spec/rope.h"

namespace quire {
namespace {

/// Fill row `position` of both tables.
void fill_row(std::span<const double> frequencies, double factor, int64_t position, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const float angle = static_cast<float>(position) * static_cast<float>(frequencies[i]);
    cos[i] = static_cast<float>(factor) * std::cos(angle);
    sin[i] = static_cast<float>(factor) * std::sin(angle);
  }
}

/// Dynamic scaling widens the base with the length of the sequence. A row takes the length at which its position was
/// new: what a model that generates token by token has seen.
bool depends_on_length(const Rope& rope, int64_t position) {
  return rope.scaling.kind == RopeScaling::Kind::kDynamic && position >= rope.scaling.original_max_positions;
}

}  // namespace

RopeTables::RopeTables(const ModelSpec& spec, int32_t num_positions, Backend& backend, Stream& stream) {
  for (const Layer& layer : spec.layers) {
    const Rope* rope = std::get_if<Rope>(&layer.attention.positions);
    if (rope == nullptr) {
      index_.push_back(-1);
      continue;
    }
    size_t found = 0;
    while (found < tables_.size() && !(tables_[found].rope == *rope)) ++found;
    if (found == tables_.size()) add_table(*rope, num_positions, backend, stream);
    index_.push_back(static_cast<int>(found));
  }
}

void RopeTables::add_table(const Rope& rope, int32_t num_positions, Backend& backend, Stream& stream) {
  const int64_t half = rope.dim / 2;
  std::vector<float> cos(static_cast<size_t>(num_positions * half));
  std::vector<float> sin(cos.size());
  const double factor = rope_attention_factor(rope);
  std::vector<double> frequencies = rope_inverse_frequencies(rope, 1);
  for (int64_t position = 0; position < num_positions; ++position) {
    if (depends_on_length(rope, position)) frequencies = rope_inverse_frequencies(rope, position + 1);
    fill_row(frequencies, factor, position, &cos[position * half], &sin[position * half]);
  }
  const auto upload = [&](const std::vector<float>& values) {
    const size_t bytes = values.size() * sizeof(float);
    Buffer& buffer = buffers_.emplace_back(backend.allocate(bytes, MemoryKind::kWeights));
    backend.copy_to_device(buffer.data(), values.data(), bytes, stream);
    return Tensor(buffer.data(), DType::kFloat32, {num_positions, half});
  };
  const Tensor cos_table = upload(cos);
  tables_.push_back({.rope = rope, .cos = cos_table, .sin = upload(sin)});
}

}  // namespace quire
