#include "kernels_cuda/gemm/tensor_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include "core/check.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {
namespace {

constexpr int kMostDimensions = 5;

/// The driver's function, which the runtime library finds for us.
PFN_cuTensorMapEncodeTiled_v12000 map_encoder() {
  static const auto encoder = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "looking for cuTensorMapEncodeTiled");
    QUIRE_REQUIRE(function != nullptr, ErrorKind::kDevice,
                  "the CUDA driver has no cuTensorMapEncodeTiled; it is too old");
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
  }();
  return encoder;
}

}  // namespace

CUtensorMap make_tensor_map(DType dtype, const void* memory, int rank, const int64_t* sizes, const int64_t* strides,
                            const uint32_t* box) {
  cuuint64_t dims[kMostDimensions];
  cuuint64_t bytes[kMostDimensions];
  cuuint32_t steps[kMostDimensions];
  for (int i = 0; i < rank; ++i) {
    dims[i] = static_cast<cuuint64_t>(sizes[i]);
    steps[i] = 1;
    if (i > 0) bytes[i - 1] = static_cast<cuuint64_t>(strides[i - 1]) * 2;
  }
  CUtensorMap map;
  const CUresult result = map_encoder()(
      &map, dtype == DType::kBFloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      static_cast<cuuint32_t>(rank), const_cast<void*>(memory), dims, bytes, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  QUIRE_CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: ", static_cast<int>(result));
  return map;
}

}  // namespace quire::gpu
