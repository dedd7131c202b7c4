#include "kernels_cuda/gemm/tile_maps.h"

#include "kernels_cuda/gemm/tensor_map.h"

namespace quire::gpu {

CUtensorMap weight_map(const TileProduct& product, DType dtype, int columns) {
  const int64_t k = product.k;
  const int64_t n = product.n;
  const int64_t matrices = product.num_matrices;
  const auto box_columns = static_cast<uint32_t>(columns);
  if (product.activates && product.rule.gated) {
    const int64_t half = n / 2;
    return make_tensor_map<5>(dtype, product.weight, {k, 8, 2, half / 8, matrices}, {k, half * k, 8 * k, n * k},
                              {kUnit, 8, 2, box_columns / 16, 1});
  }
  return make_tensor_map<2>(dtype, product.weight, {k, matrices * n}, {k}, {kUnit, box_columns});
}

CUtensorMap x_map(const TileProduct& product, DType dtype, int rows) {
  // The stride of a single row may be anything.
  const int64_t stride = product.num_x_rows == 1 ? (int64_t{product.k} + 7) / 8 * 8 : product.x_stride;
  return make_tensor_map<2>(dtype, product.x, {product.k, product.num_x_rows}, {stride},
                            {kUnit, static_cast<uint32_t>(rows)});
}

}  // namespace quire::gpu
