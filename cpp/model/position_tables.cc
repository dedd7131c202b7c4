#include "model/position_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "core/check.h"
#include "spec/alibi.h"
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

/// Qwen's log-n attention, as a factor of a query's cosines and sines.
double log_scale(const Rope& rope, int64_t position) {
  const auto length = static_cast<double>(position + 1);
  return length > rope.log_scale_base ? std::log(length) / std::log(rope.log_scale_base) : 1.0;
}

}  // namespace

PositionTables::PositionTables(const ModelSpec& spec, int32_t num_positions, Backend& backend, Stream& stream)
    : backend_(backend), stream_(stream), num_positions_(num_positions), num_sets_(num_rope_sets(spec, num_positions)) {
  QUIRE_REQUIRE(int64_t{num_sets_} * num_positions_ <= std::numeric_limits<int32_t>::max(), ErrorKind::kUnsupported,
                "[model] too many positions for ", num_sets_,
                " sets of angles: set max_model_len <= ", std::numeric_limits<int32_t>::max() / num_sets_);
  for (const Layer& layer : spec.layers) {
    LayerPositions& positions = layers_.emplace_back();
    if (const auto* rope = std::get_if<Rope>(&layer.attention.positions)) positions.rope = rope_table(*rope);
    if (const auto* alibi = std::get_if<Alibi>(&layer.attention.positions)) {
      positions.alibi_slopes = alibi_slopes(*alibi, layer.attention);
    }
  }
}

int64_t PositionTables::bytes(const ModelSpec& spec, int32_t num_positions) {
  std::vector<Rope> ropes;
  int64_t bytes = 0;
  for (const Layer& layer : spec.layers) {
    const auto* rope = std::get_if<Rope>(&layer.attention.positions);
    if (rope == nullptr || std::ranges::find(ropes, *rope) != ropes.end()) continue;
    ropes.push_back(*rope);
    const int64_t num_tables = rope->log_scale_base > 0 ? 4 : 2;
    bytes += num_tables * num_rope_sets(spec, num_positions) * num_positions * (rope->dim / 2) *
             static_cast<int64_t>(sizeof(float));
  }
  return bytes;
}

void* PositionTables::upload(const std::vector<float>& values) {
  const size_t bytes = values.size() * sizeof(float);
  Buffer& buffer = buffers_.emplace_back(backend_.allocate(bytes, MemoryKind::kWeights));
  backend_.copy_to_device(buffer.data(), values.data(), bytes, stream_);
  return buffer.data();
}

void PositionTables::fill(const Rope& rope, std::vector<float>& cos, std::vector<float>& sin) const {
  const int64_t half = rope.dim / 2;
  cos.resize(static_cast<size_t>(num_sets_ * num_positions_ * half));
  sin.resize(cos.size());
  const double factor = rope_attention_factor(rope);
  for (int32_t set = 0; set < num_sets_; ++set) {
    std::vector<double> frequencies = rope_inverse_frequencies(rope, rope_set_length(rope, set));
    for (int64_t position = 0; position < num_positions_; ++position) {
      if (depends_on_length(rope, position)) frequencies = rope_inverse_frequencies(rope, position + 1);
      const int64_t row = int64_t{set} * num_positions_ + position;
      fill_row(frequencies, factor, position, &cos[row * half], &sin[row * half]);
    }
  }
}

const RopeTable* PositionTables::rope_table(const Rope& rope) {
  const auto known = std::ranges::find(ropes_, rope, &RopeTable::rope);
  if (known != ropes_.end()) return &*known;
  const int64_t half = rope.dim / 2;
  std::vector<float> cos, sin;
  fill(rope, cos, sin);
  const int64_t rows = int64_t{num_sets_} * num_positions_;
  const auto tensor = [&](const std::vector<float>& values) {
    return Tensor(upload(values), DType::kFloat32, {rows, half});
  };
  RopeTable& table = ropes_.emplace_back();
  table.rope = rope;
  table.q_cos = table.cos = tensor(cos);
  table.q_sin = table.sin = tensor(sin);
  if (rope.log_scale_base > 0) {
    for (int64_t row = 0; row < rows; ++row) {
      const auto scale = static_cast<float>(log_scale(rope, row % num_positions_));
      for (int64_t i = row * half; i < (row + 1) * half; ++i) {
        cos[i] *= scale;
        sin[i] *= scale;
      }
    }
    table.q_cos = tensor(cos);
    table.q_sin = tensor(sin);
  }
  return &table;
}

const float* PositionTables::alibi_slopes(const Alibi& alibi, const Attention& attention) {
  const double scale = alibi.scaled ? attention_scale(attention) : 1.0;
  // A rank's heads have the slopes that they have in the whole model.
  const AllHeads all = attention.all.value_or(AllHeads{.heads = attention.heads});
  for (const Slopes& known : slopes_) {
    if (known.alibi == alibi && known.first == all.first && known.heads == all.heads && known.scale == scale) {
      return known.values;
    }
  }
  std::vector<float> values;
  for (const double slope : quire::alibi_slopes(alibi, all.heads)) {
    values.push_back(static_cast<float>(slope * scale));
  }
  const auto* const uploaded = static_cast<const float*>(upload(values));
  slopes_.push_back(
      {.alibi = alibi, .first = all.first, .heads = all.heads, .scale = scale, .values = uploaded + all.first});
  return slopes_.back().values;
}

}  // namespace quire
