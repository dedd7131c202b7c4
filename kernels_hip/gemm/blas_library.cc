// hipBLASLt. Numbers and layouts are those of ROCm 6.0 (hipBLASLt 0.6) to ROCm 7.2 (1.2), the same in all of them: from
// hipBLASLt's library/include/hipblaslt.h (attributes, epilogues, hipblasLtMatmulAlgo_t,
// hipblasLtMatmulHeuristicResult_t), hipBLAS-common's hipblas-common.h (status, operation, compute type) and HIP's
// library_types.h (hipDataType). ROCm 5 numbered data and compute types in another way.
#include "kernels_cuda/gemm/blas_library.h"

#include <dlfcn.h>

#include <cstdlib>

#include "core/check.h"

namespace quire::gpu::blas {

const Traits kTraits = {
    .prefix = "hipblasLt",
    .algorithm_bytes = 24,         // hipblasLtMatmulAlgo_t: 16 bytes and a size_t
    .compute_float32 = 2,          // HIPBLAS_COMPUTE_32F
    .transposed = 112,             // HIPBLAS_OP_T
    .description_transpose_a = 0,  // HIPBLASLT_MATMUL_DESC_...
    .description_epilogue = 2,
    .description_bias = 3,       // ..._BIAS_POINTER
    .description_bias_type = 4,  // ..._BIAS_DATA_TYPE
    .has_more_preferences = false,
    .counts_rounds = false,
};

/// The library of the ROCm that this is built for: another one's would bring a second HIP runtime into the process, to
/// which our streams mean nothing.
#if !defined(HIP_VERSION_MAJOR) || HIP_VERSION_MAJOR == 6
constexpr const char* kFile = "libhipblaslt.so.0";
#elif HIP_VERSION_MAJOR >= 7
constexpr const char* kFile = "libhipblaslt.so.1";
#else
constexpr const char* kFile = nullptr;
#endif

/// From the folder that QUIRE_HIPBLASLT_PATH names, or from where the loader looks.
void* open_library(std::string& why_not) {
  if (kFile == nullptr) {
    why_not =
        "hipBLASLt not used: this is built for HIP 5, expected=libhipblaslt.so.0 of ROCm 6 or libhipblaslt.so.1 of "
        "ROCm 7; build quire with one of them";
    return nullptr;
  }
  const char* const folder = std::getenv("QUIRE_HIPBLASLT_PATH");
  const std::string path = folder != nullptr ? std::string(folder) + "/" + kFile : std::string(kFile);
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const error = dlerror();
    why_not = detail::join_message("hipBLASLt not found: file=", path,
                                   "; install ROCm's package hipblaslt, or set QUIRE_HIPBLASLT_PATH to its folder: ",
                                   error != nullptr ? error : "");
  }
  return library;
}

}  // namespace quire::gpu::blas
