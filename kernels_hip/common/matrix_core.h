// Products of one wave on the matrix cores: d[16, 16] += a[16, k] * b[16, k]^T, 16-bit inputs, float32 sums.
//
// An operand comes in steps of k, in chunks of 8 neighbours (16 bytes), so that it is read from memory as it lies
// there. That is not how the instructions count k, but a sum does not mind in which order the same k of both operands
// come: with 64 lanes a step is 32 of k and two instructions, the first takes the first half of every lane's chunk.
// With 32 lanes a step is 16 and one instruction. Rows of a are given to it in an order (left_row) that makes a
// lane's results neighbours in a column of d, whatever the instruction.
//
// Layouts of the instructions: AMD's matrix instruction calculator (github.com/ROCm/amd_matrix_instruction_calculator,
// V_MFMA_F32_16X16X16F16, V_MFMA_F32_16X16X16BF16_1K, V_WMMA_F32_16X16X16_F16 and _BF16); the same are in the "CDNA3"
// and "RDNA3 Instruction Set Architecture" guides. gfx90a takes and gives denormal 16-bit inputs as zero.
#pragma once

#include <cstdint>

#include "kernels_hip/common/instructions.h"

namespace quire::gpu {

/// From memory; zeros if not `valid`.
__device__ inline Chunk load_chunk(const void* from, bool valid) {
  Chunk chunk{};
  if (valid) chunk = *static_cast<const Chunk*>(from);
  return chunk;
}

template <int kLanes>
struct MatrixCore {
  static constexpr int kValues = 256 / kLanes;                    ///< of a result, in each lane
  static constexpr int kStep = kLanes == 64 ? 32 : 16;            ///< of k
  static constexpr int kStepChunks = kStep / 8;                   ///< of a row
  static constexpr int kLaneChunks = kLanes == 64 ? 1 : 2;        ///< of these, a lane's
  static constexpr int kInstructionWords = kLanes == 64 ? 2 : 8;  ///< of a lane's operand
  static constexpr int kStepInstructions = kLanes == 64 ? 2 : 1;

  /// Which row of a, and of b, a lane brings.
  static __host__ __device__ constexpr int left_row(int lane) {
    return kLanes == 64 ? lane % 16 : lane % 2 * 8 + lane % 16 / 2;
  }
  /// Which lane of 16 brings a row of a: in shared memory rows lie in this order, so that neighbours read neighbours.
  static __host__ __device__ constexpr int left_place(int row) {
    return kLanes == 64 ? row : row / 16 * 16 + row % 8 * 2 + row / 8 % 2;
  }
  static __host__ __device__ constexpr int right_row(int lane) { return lane % 16; }
  /// Which chunk of the step is the lane's i-th.
  static __host__ __device__ constexpr int chunk(int lane, int i) { return kLanes == 64 ? lane / 16 : i; }
  /// Where the lane's values are in d: rows first_row(lane) and the following, column right_row(lane).
  static __host__ __device__ constexpr int first_row(int lane) { return lane / 16 * kValues; }
};

/// What a lane brings of one operand for a step.
template <int kLanes>
struct alignas(16) Operand {
  uint32_t words[4 * MatrixCore<kLanes>::kLaneChunks];

  __device__ void set(int i, const Chunk& chunk) {
#pragma unroll
    for (int word = 0; word < 4; ++word) words[4 * i + word] = chunk[word];
  }
};

/// What a lane has of d.
template <int kLanes>
struct Result {
  float values[256 / kLanes];
};

/// All of one step.
template <typename T, int kLanes>
__device__ inline void multiply_step(Result<kLanes>& d, const Operand<kLanes>& a, const Operand<kLanes>& b) {
  using Core = MatrixCore<kLanes>;
#pragma unroll
  for (int i = 0; i < Core::kStepInstructions; ++i) {
    multiply_add<T, kLanes>(d.values, a.words + i * Core::kInstructionWords, b.words + i * Core::kInstructionWords);
  }
}

/// A result as operand b of a product over the rows of d: 16 of k in their order, one instruction. `packed`: the lane's
/// values in 16 bits.
template <int kLanes>
struct Weights {
  uint32_t words[MatrixCore<kLanes>::kInstructionWords];
};
template <int kLanes>
__device__ inline Weights<kLanes> weights_of(const uint32_t (&packed)[128 / kLanes]) {
  Weights<kLanes> weights;
  if constexpr (kLanes == 64) {
    weights = {packed[0], packed[1]};
  } else {
    // Half of the 16 are in the lane that has the same column.
    const bool upper = static_cast<int>(threadIdx.x) % 32 >= 16;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t other = exchange<kLanes>(packed[i], 16);
      weights.words[i] = upper ? other : packed[i];
      weights.words[4 + i] = upper ? packed[i] : other;
    }
  }
  return weights;
}

/// Over the lanes that have the same column of a result.
template <int kLanes>
__device__ inline float column_max(float value) {
#pragma unroll
  for (int mask = 16; mask < kLanes; mask *= 2) {
    value = fmaxf(value, __builtin_bit_cast(float, exchange<kLanes>(__builtin_bit_cast(uint32_t, value), mask)));
  }
  return value;
}
template <int kLanes>
__device__ inline float column_sum(float value) {
#pragma unroll
  for (int mask = 16; mask < kLanes; mask *= 2) {
    value += __builtin_bit_cast(float, exchange<kLanes>(__builtin_bit_cast(uint32_t, value), mask));
  }
  return value;
}

}  // namespace quire::gpu
