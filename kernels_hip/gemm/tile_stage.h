// One unit of k of a tile in shared memory, and what a wave does with it: index maths and the inner loop, without
// anything of the GPU but what instructions.h has, so that a test can run them.
//
// A stage has the unit of every row of x, then of every row of the weights, these in the order of left_place: 128 bytes
// each, eight chunks of 16 that lie at (chunk xor row % 8). Eight lanes that read one chunk of neighbouring rows, or
// write one row, meet no bank twice.
#pragma once

#include "kernels_hip/common/matrix_core.h"

namespace quire::gpu {

constexpr int kStageDepth = 64;  ///< of k
constexpr int kRowChunks = kStageDepth / 8;
constexpr int kTileWaves = 4;
constexpr int kStageColumns = 128;  ///< rows of the weights

/// Where a chunk of a row lies in a stage.
__host__ __device__ constexpr int stage_place(int row, int chunk) {
  return row * kRowChunks + (chunk ^ (row % 8));
}

/// How four waves share a tile of kRows rows of x: side by side, or two by two if it is high.
template <int kRows, int kLanes>
struct TileShape {
  static constexpr int kThreads = kTileWaves * kLanes;
  static constexpr int kWavesAcross = kRows == 128 ? 2 : 4;
  static constexpr int kWaveRows = kRows * kWavesAcross / kTileWaves;
  static constexpr int kWaveColumns = kStageColumns / kWavesAcross;
  static constexpr int kRowFragments = kWaveRows / 16;
  static constexpr int kColumnFragments = kWaveColumns / 16;
  static constexpr int kStageChunks = (kRows + kStageColumns) * kRowChunks;
  static constexpr int kStageBytes = kStageChunks * static_cast<int>(sizeof(Chunk));

  // A thread copies one chunk of every kRowsAtOnce-th row.
  static constexpr int kRowsAtOnce = kThreads / kRowChunks;
  static constexpr int kRowCopies = (kRows + kRowsAtOnce - 1) / kRowsAtOnce;
  static constexpr int kColumnCopies = kStageColumns / kRowsAtOnce;

  static __host__ __device__ constexpr int first_row(int wave) { return wave / kWavesAcross * kWaveRows; }
  static __host__ __device__ constexpr int first_column(int wave) { return wave % kWavesAcross * kWaveColumns; }
};

/// What a thread has of a stage on its way to shared memory.
template <int kRows, int kLanes>
struct StageChunks {
  Chunk x[TileShape<kRows, kLanes>::kRowCopies];
  Chunk weights[TileShape<kRows, kLanes>::kColumnCopies];

  __device__ void store(Chunk* stage, int thread) const {
    using Shape = TileShape<kRows, kLanes>;
    const int row = thread / kRowChunks, chunk = thread % kRowChunks;
#pragma unroll
    for (int i = 0; i < Shape::kRowCopies; ++i) {
      if (kRows % Shape::kRowsAtOnce != 0 && row + i * Shape::kRowsAtOnce >= kRows) break;
      write_shared(stage + stage_place(row + i * Shape::kRowsAtOnce, chunk), x[i]);
    }
#pragma unroll
    for (int i = 0; i < Shape::kColumnCopies; ++i) {
      const int place = MatrixCore<kLanes>::left_place(row + i * Shape::kRowsAtOnce);
      write_shared(stage + stage_place(kRows + place, chunk), weights[i]);
    }
  }
};

/// A wave's sums of a tile. Fragment [r][c]: rows r * 16 + right_row of x; columns c * 16 + first_row and the following
/// (matrix_core.h: the weights are operand a).
template <int kRows, int kLanes>
struct TileSums {
  using Shape = TileShape<kRows, kLanes>;
  Result<kLanes> of[Shape::kRowFragments][Shape::kColumnFragments];

  template <typename Work>
  __device__ void each(const Work& work) {
#pragma unroll
    for (int r = 0; r < Shape::kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < Shape::kColumnFragments; ++c) {
#pragma unroll
        for (int i = 0; i < MatrixCore<kLanes>::kValues; ++i) work(of[r][c].values[i], r, c, i);
      }
    }
  }
  __device__ void clear() {
    each([](float& value, int, int, int) { value = 0.0f; });
  }
};

/// The lane's operand for one step of the 16 rows of a stage from `first` on.
template <int kLanes>
__device__ inline Operand<kLanes> stage_operand(const Chunk* stage, int first, int step, int lane) {
  using Core = MatrixCore<kLanes>;
  Operand<kLanes> operand;
#pragma unroll
  for (int i = 0; i < Core::kLaneChunks; ++i) {
    const int chunk = step * Core::kStepChunks + Core::chunk(lane, i);
    operand.set(i, read_shared(stage + stage_place(first + lane % 16, chunk)));
  }
  return operand;
}

/// sums += the stage's x * its weights^T.
template <typename T, int kRows, int kLanes>
__device__ inline void multiply_stage(TileSums<kRows, kLanes>& sums, const Chunk* stage, int wave, int lane) {
  using Core = MatrixCore<kLanes>;
  using Shape = TileShape<kRows, kLanes>;
  const int first_row = Shape::first_row(wave);
  const int first_column = kRows + Shape::first_column(wave);
#pragma unroll
  for (int step = 0; step < kStageDepth / Core::kStep; ++step) {
    Operand<kLanes> weights[Shape::kColumnFragments];
    Operand<kLanes> x[Shape::kRowFragments];
#pragma unroll
    for (int c = 0; c < Shape::kColumnFragments; ++c) {
      weights[c] = stage_operand<kLanes>(stage, first_column + c * 16, step, lane);
    }
#pragma unroll
    for (int r = 0; r < Shape::kRowFragments; ++r) {
      x[r] = stage_operand<kLanes>(stage, first_row + r * 16, step, lane);
    }
#pragma unroll
    for (int r = 0; r < Shape::kRowFragments; ++r) {
#pragma unroll
      for (int c = 0; c < Shape::kColumnFragments; ++c) multiply_step<T, kLanes>(sums.of[r][c], weights[c], x[r]);
    }
  }
}

}  // namespace quire::gpu
