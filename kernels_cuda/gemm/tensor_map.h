#pragma once

#include <cuda.h>

#include <array>
#include <cstdint>

#include "core/dtype.h"

namespace quire::gpu {

/// What the copy engine has to know of a tensor of 16-bit elements in device memory that is copied in boxes, rows of
/// 64 elements swizzled as warpgroups' products want them. `sizes`: from the last dimension on; `strides`: in elements,
/// without that of the last dimension, which is 1; all but it times 2 are multiples of 16, as is the address. At most
/// five dimensions. What a box has outside the tensor becomes zeros. Raises: kDevice if the driver is too old.
CUtensorMap make_tensor_map(DType dtype, const void* memory, int rank, const int64_t* sizes, const int64_t* strides,
                            const uint32_t* box);

template <int kRank>
CUtensorMap make_tensor_map(DType dtype, const void* memory, const std::array<int64_t, kRank>& sizes,
                            const std::array<int64_t, kRank - 1>& strides, const std::array<uint32_t, kRank>& box) {
  return make_tensor_map(dtype, memory, kRank, sizes.data(), strides.data(), box.data());
}

}  // namespace quire::gpu
