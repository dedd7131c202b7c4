#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/rows.h"

namespace quire::cpu {

/// Call body(row, begin, end) over pieces of every row of a [rows, columns] matrix, for ops without a sum over the row:
/// one long row is split over the pool as well as many short ones.
template <typename Body>
void for_each_piece(Stream& stream, int64_t rows, int64_t columns, const Body& body) {
  constexpr int64_t kPieceColumns = 2048;
  const int64_t pieces = (columns + kPieceColumns - 1) / kPieceColumns;
  split_items(stream, rows * pieces, std::min(columns, kPieceColumns), [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t begin = item % pieces * kPieceColumns;
      body(item / pieces, begin, std::min(columns, begin + kPieceColumns));
    }
  });
}

}  // namespace quire::cpu
