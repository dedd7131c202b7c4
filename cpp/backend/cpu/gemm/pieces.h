#pragma once

#include <cstdint>

#include "backend/ops/linear.h"

namespace quire::cpu {

/// A part of a linear op's output that one worker computes: rows times panels of one matrix.
struct LinearPiece {
  int64_t group = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t panel_begin = 0;
  int64_t panel_end = 0;
};

/// How an instruction set computes pieces. Which pieces there are never changes a result.
struct LinearKernel {
  /// Rows that use a panel together while it is in the cache; also the most that `compute` takes.
  int64_t rows_per_block = 0;
  /// Rows of one register tile.
  int64_t rows_per_tile = 0;
  void (*compute)(const LinearArgs& args, const LinearPiece& piece) = nullptr;
};

/// Cut the op into pieces and compute them on the stream's workers.
void run_linear(const LinearArgs& args, Stream& stream, const LinearKernel& kernel);
void run_grouped_linear(const GroupedLinearArgs& args, Stream& stream, const LinearKernel& kernel);

}  // namespace quire::cpu
