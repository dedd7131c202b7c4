#include "kernels_cuda/common/device.h"

namespace quire::gpu {

void throw_device_error(cudaError_t error, const char* what) {
  cudaGetLastError();  // the runtime would report it once more, to whoever asks next
  const bool memory = error == cudaErrorMemoryAllocation;
  throw Error(memory ? ErrorKind::kOutOfMemory : ErrorKind::kDevice,
              detail::join_message("[cuda] ", memory ? "out of memory" : "the device reports an error", ": doing=",
                                   what, ", error=", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")",
                                   memory ? "; lower gpu_memory_utilization or max_model_len, or free the GPU" : ""));
}

}  // namespace quire::gpu
