#pragma once

#include <cstdint>

#include "backend/packed_linear.h"

namespace quire::cpu {

/// Packed weights of the linear op, the same for every instruction set: panels of 32 output features, each [K][32] in
/// the stored type, one behind the other; the last is filled up with zeros. The matrices of several groups lie
/// one behind the other too.
///
/// 32, because a panel read from front to back is one stream that memory delivers at its full rate: with narrower
/// panels, of which several must be read at once to have enough independent sums, 10 to 40 % of it is lost.
constexpr int64_t kPanelColumns = 32;

constexpr int64_t panel_count(int64_t n) {
  return (n + kPanelColumns - 1) / kPanelColumns;
}

/// From one panel to the next.
inline int64_t panel_bytes(const PackedLinear& weight) {
  return weight.k * kPanelColumns * dtype_bytes(weight.dtype);
}

/// From one matrix to the next.
inline int64_t group_bytes(const PackedLinear& weight) {
  return panel_count(weight.n) * panel_bytes(weight);
}

/// Where a panel of a matrix begins.
template <typename Weight>
const Weight* panel_of(const PackedLinear& weight, int64_t group, int64_t panel) {
  return static_cast<const Weight*>(weight.data.data()) +
         (group * panel_count(weight.n) + panel) * weight.k * kPanelColumns;
}

}  // namespace quire::cpu
