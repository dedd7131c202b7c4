#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "kernels_cuda/stream.h"

/// What is left to do once the library has brought every rank's part here.
namespace quire::gpu {

/// x := sum over the ranks, in their order and in float32, or add_to += scale * that sum, for `count` elements.
struct GatheredParts {
  const void* parts;  ///< [ranks, count]
  int num_ranks;
  int64_t count;
  void* x;
  float* add_to;  ///< or null
  float scale;
};

/// out[rows, columns] from each rank's columns as share_of_rank() deals them out, the first ones having `each`.
struct GatheredColumns {
  const float* parts;  ///< of each rank [rows, its columns], `rows * each` apart
  int64_t rows;
  int64_t columns;
  int64_t each;
  float* out;
  int64_t out_stride;
};

void sum_parts(DType dtype, const GatheredParts& gathered, GpuStream& stream);
void join_columns(const GatheredColumns& gathered, GpuStream& stream);

}  // namespace quire::gpu
