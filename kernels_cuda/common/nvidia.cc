#include "kernels_cuda/common/nvidia.h"

#include <cstdlib>

#include "core/check.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu::vendor {
namespace {

/// 13000 -> "13.0"
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

const char* targets() {
  return QUIRE_CUDA_TARGETS;
}

std::string describe(Result result) {
  return detail::join_message(cudaGetErrorString(result), " (", cudaGetErrorName(result), ")");
}

std::string explain_no_device(Result result) {
  int driver = 0, runtime = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
  switch (result) {
    case cudaSuccess:
    case cudaErrorNoDevice:
      return visible == nullptr ? "no NVIDIA GPU is visible: nvidia-smi lists those that the driver sees"
                                : detail::join_message("no NVIDIA GPU is visible: CUDA_VISIBLE_DEVICES=\"", visible,
                                                       "\"; unset it to use all");
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
      if (driver == 0) return "no NVIDIA driver is installed: install one, or use device=\"cpu\"";
      return detail::join_message("the NVIDIA driver is too old for CUDA ", version_text(runtime),
                                  ": installed=", version_text(driver), "; update the driver, or use device=\"cpu\"");
    default:
      return detail::join_message("the NVIDIA driver does not work: error=", describe(result),
                                  "; see whether nvidia-smi works");
  }
}

Result look_at_device(int ordinal, Device& device) {
  cudaDeviceProp properties{};
  const Result result = cudaGetDeviceProperties(&properties, ordinal);
  if (result != cudaSuccess) return result;
  device.name = properties.name;
  device.compute_capability = properties.major * 10 + properties.minor;
  device.target = "sm_" + std::to_string(device.compute_capability);
  device.num_multiprocessors = properties.multiProcessorCount;
  device.shared_memory_per_block = properties.sharedMemPerBlockOptin;
  device.l2_bytes = static_cast<size_t>(properties.l2CacheSize);
  return result;
}

bool is_missing_code(Result result) {
  return result == cudaErrorNoKernelImageForDevice || result == cudaErrorInvalidDeviceFunction;
}

std::string explain_missing_code(const Device& device) {
  const int capability = device.compute_capability;
  return detail::join_message(
      "compute capability ", capability / 10, ".", capability % 10, ": device=cuda:", device.ordinal, " (", device.name,
      "); build quire with QUIRE_CUDA_ARCHITECTURES=", capability, " where the CUDA toolkit still knows it");
}

}  // namespace quire::gpu::vendor
