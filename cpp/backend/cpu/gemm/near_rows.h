#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/cpu/stream.h"
#include "core/tensor.h"

namespace quire::cpu {

/// Whether rows that lie `stride` floats apart should be copied before so many of them are used together: those at
/// multiples of 4 KB fall into one set of the first-level cache, more of them into few of the second, and push each
/// other out; a third of the speed is lost. The copy pays from some panels on, and must not become large.
inline bool worth_moving(int64_t stride, int64_t rows, const PackedLinear& weight, const LinearKernel& kernel) {
  constexpr int64_t kFloatsOfSets = 1024;
  constexpr int64_t kMinPanels = 8;
  constexpr int64_t kMaxFloats = 1 << 20;
  return stride % kFloatsOfSets == 0 && rows > kernel.rows_per_tile && panel_count(weight.n) >= kMinPanels &&
         rows * weight.k <= kMaxFloats;
}

/// Every worker's own copy of the block of rows that it works on, in the stream's scratch.
class NearRows {
 public:
  /// Scratch per worker.
  static constexpr size_t bytes(int64_t rows, int64_t columns) {
    return kHeadBytes + static_cast<size_t>(rows * (columns + kPadding)) * sizeof(float);
  }

  /// In the scratch of the first `workers` from `offset` on, a multiple of 64; to be reserved before.
  NearRows(CpuStream& cpu, int workers, size_t offset, int64_t columns)
      : cpu_(cpu), offset_(offset), columns_(columns) {
    for (int worker = 0; worker < workers; ++worker) held(worker) = -1;
  }

  /// The block of this number, whose rows begin at row_at(0), row_at(1), ...; copied unless it is the one that this
  /// worker had last.
  template <typename RowAt>
  Tensor get(int worker, int64_t number, int64_t rows, const RowAt& row_at) const {
    Tensor copy(memory(worker) + kHeadBytes, DType::kFloat32, {rows, columns_});
    copy.strides[0] = columns_ + kPadding;
    if (held(worker) != number) {
      held(worker) = number;
      for (int64_t row = 0; row < rows; ++row) {
        std::copy_n(static_cast<const float*>(row_at(row)), columns_, copy.rows(row, 1).as<float>());
      }
    }
    return copy;
  }

 private:
  static constexpr size_t kHeadBytes = 64;
  /// Floats, a cache line: so that rows of the copy do not share sets either.
  static constexpr int64_t kPadding = 16;

  char* memory(int worker) const { return static_cast<char*>(cpu_.scratch(worker)) + offset_; }
  int64_t& held(int worker) const { return *reinterpret_cast<int64_t*>(memory(worker)); }

  CpuStream& cpu_;
  size_t offset_;
  int64_t columns_;
};

}  // namespace quire::cpu
