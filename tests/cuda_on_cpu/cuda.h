// What quire uses of CUDA's driver: maps of tensors that are copied in boxes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
using cuuint32_t = uint32_t;
using cuuint64_t = uint64_t;
enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_FLOAT16, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 };
enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE };
enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_128B };
enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B };
enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

/// Of 16-bit elements; rows of 64 in shared memory, swizzled.
struct alignas(64) CUtensorMap {
  const std::byte* memory;
  uint32_t rank;
  uint32_t box[5];
  uint64_t sizes[5];
  uint64_t strides[5];  ///< in bytes
};

/// Refuses what the driver refuses, as far as that is known.
inline CUresult make_tensor_map(CUtensorMap* map, CUtensorMapDataType, cuuint32_t rank, void* memory,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  constexpr uint64_t kElement = 2, kSwizzled = 128, kMostSize = uint64_t{1} << 32, kMostStride = uint64_t{1} << 40;
  constexpr uint32_t kMostBox = 256;
  if (rank < 1 || rank > 5 || reinterpret_cast<uintptr_t>(memory) % 16 != 0) return CUDA_ERROR_INVALID_VALUE;
  *map = {};
  map->memory = static_cast<const std::byte*>(memory);
  map->rank = rank;
  for (uint32_t i = 0; i < 5; ++i) {
    map->box[i] = i < rank ? box[i] : 1;
    map->sizes[i] = i < rank ? sizes[i] : 1;
    map->strides[i] = i == 0 ? kElement : i < rank ? strides[i - 1] : 0;
    if (i >= rank) continue;
    if (sizes[i] == 0 || sizes[i] > kMostSize || box[i] == 0 || box[i] > kMostBox || steps[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (i > 0 && (map->strides[i] % 16 != 0 || map->strides[i] >= kMostStride)) return CUDA_ERROR_INVALID_VALUE;
  }
  return box[0] * kElement == kSwizzled ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
