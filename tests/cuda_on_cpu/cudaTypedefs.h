#pragma once

#include "cuda.h"
#include "cuda_runtime.h"

using PFN_cuTensorMapEncodeTiled_v12000 = decltype(&make_tensor_map);

enum cudaDriverEntryPointQueryResult {};
constexpr unsigned long long cudaEnableDefault = 0;
/// There is one.
inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult*) {
  *function = reinterpret_cast<void*>(&make_tensor_map);
  return cudaSuccess;
}
