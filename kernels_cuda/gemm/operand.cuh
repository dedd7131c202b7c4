// How operands of a warpgroup's products lie in shared memory, as the instructions want it described: rows of 64 16-bit
// elements, 128 bytes apart, swizzled by eight rows as the copies of boxes do it.
#pragma once

#include "kernels_cuda/common/async_copy.cuh"

namespace quire::gpu {

/// Values that are summed row by row. `column_bytes`: from the first 64 of all rows to the next. To go on by 16 rows
/// add 128.
__device__ inline uint64_t values_operand(uint32_t address, uint32_t column_bytes) {
  constexpr uint64_t kEightRows = 1024 / 16;
  constexpr uint64_t kSwizzle128 = 1;
  return (address & 0x3ffff) / 16 | uint64_t{column_bytes / 16} << 16 | kEightRows << 32 | kSwizzle128 << 62;
}

/// Rows of numbers that are summed over. To go 16 elements along them add 2.
__device__ inline uint64_t operand(const void* shared) {
  constexpr uint32_t kNotUsed = 16;
  return values_operand(shared_address(shared), kNotUsed);
}

}  // namespace quire::gpu
