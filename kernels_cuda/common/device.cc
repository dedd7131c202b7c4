#include "kernels_cuda/common/device.h"

namespace quire::gpu {

void throw_device_error(vendor::Result result, const char* what) {
  vendor::forget_error();
  const bool memory = vendor::is_out_of_memory(result);
  throw Error(memory ? ErrorKind::kOutOfMemory : ErrorKind::kDevice,
              detail::join_message("[", vendor::kName, "] ", memory ? "out of memory" : "the device reports an error",
                                   ": doing=", what, ", error=", vendor::describe(result),
                                   memory ? "; lower gpu_memory_utilization or max_model_len, or free the GPU" : ""));
}

}  // namespace quire::gpu
