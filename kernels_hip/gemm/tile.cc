// No tiles: generic_linear() and multiply_plain() do the products.
#include "kernels_cuda/gemm/tile.h"

#include "kernels_cuda/gemm/tile.cuh"

namespace quire::gpu {

bool tile_linear_fits(const LinearArgs&, const GpuStream&) {
  return false;
}

void tile_linear(const LinearArgs&, GpuStream&) {
  QUIRE_CHECK(false, "tile_linear() fits nothing");
}

size_t tile_scratch_bytes(const Device&) {
  return 0;
}

size_t tile_counters(const Device&) {
  return 0;
}

void multiply_tiles(TileProduct, DType, int, int32_t, GpuStream&) {
  QUIRE_CHECK(false, "multiply_tiles() fits nothing");
}

}  // namespace quire::gpu
