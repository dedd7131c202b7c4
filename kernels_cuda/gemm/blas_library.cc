// Of cublasLt.h; numbers are those of CUDA 12 and 13.
#include "kernels_cuda/gemm/blas_library.h"

#include <dlfcn.h>

#include <cstdlib>

namespace quire::gpu::blas {

const Traits kTraits = {
    .prefix = "cublasLt",
    .algorithm_bytes = 64,
    .compute_float32 = 68,
    .transposed = 1,
    .description_transpose_a = 3,
    .description_epilogue = 7,
    .description_bias = 8,
    .description_bias_type = 26,
    .has_more_preferences = true,
    .preference_reduction = 3,
    .reduce_in_float32 = 2,
    .preference_alignment_a = 5,
    .preference_alignment_d = 8,
    .counts_rounds = true,
};

/// From the folder that QUIRE_CUBLASLT_PATH names, or from where the loader looks.
void* open_library(std::string& why_not) {
  const char* const folder = std::getenv("QUIRE_CUBLASLT_PATH");
  for (const char* const name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    for (const bool in_folder : {true, false}) {
      if (in_folder && folder == nullptr) continue;
      const std::string path = in_folder ? std::string(folder) + "/" + name : std::string(name);
      if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      if (const char* const error = dlerror(); error != nullptr && why_not.empty()) why_not = error;
    }
  }
  why_not = "cuBLASLt not found (set QUIRE_CUBLASLT_PATH to the folder of libcublasLt.so.13): " + why_not;
  return nullptr;
}

}  // namespace quire::gpu::blas
