#include "kernels_hip/compat.h"

#include <link.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <set>

#include "core/check.h"
#include "kernels_cuda/common/device.h"
#include "kernels_hip/topology.h"

namespace quire::gpu::vendor {
namespace {

constexpr const char* kDriverFile = "/dev/kfd";

bool has_code_for(const std::string& target) {
  return (" " + std::string(targets()) + " ").find(" " + target + " ") != std::string::npos;
}

/// "gfx90a:sramecc+:xnack-" -> "gfx90a"
std::string without_features(const std::string& target) {
  return target.substr(0, target.find(':'));
}

std::string explain_targets(const std::string& missing) {
  return detail::join_message(missing, "; it has code for ", targets(),
                              ": build quire with QUIRE_HIP_ARCHITECTURES=", missing);
}

}  // namespace

/// "gfx90a gfx1030"
const char* targets() {
  return QUIRE_HIP_TARGETS;
}

std::string describe(Result result) {
  return detail::join_message(hipGetErrorString(result), " (", hipGetErrorName(result), ")");
}

/// Before HIP is asked: some versions of its runtime end the process if they find no code for a GPU.
Result count_devices(int* count) {
  const std::vector<std::string> targets = gpu_targets(kTopologyFolder);
  if (!targets.empty() && std::none_of(targets.begin(), targets.end(), has_code_for)) return hipErrorNoBinaryForGpu;
  return hipGetDeviceCount(count);
}

std::string explain_no_device(Result result) {
  if (const auto targets = gpu_targets(kTopologyFolder); result == hipErrorNoBinaryForGpu && !targets.empty()) {
    return detail::join_message("this build has no code for the AMD GPU of this machine: target=",
                                explain_targets(targets.front()));
  }
  if (access(kDriverFile, R_OK | W_OK) != 0) {
    if (errno != ENOENT) {
      return detail::join_message("the AMD driver may not be used: ", kDriverFile,
                                  " cannot be opened; add the user to the groups render and video");
    }
    return detail::join_message("no AMD driver is loaded: ", kDriverFile,
                                " is not there; install amdgpu, or use device=\"cpu\"");
  }
  if (result != hipSuccess && result != hipErrorNoDevice) {
    return detail::join_message("the AMD driver does not work: error=", describe(result),
                                "; see whether rocminfo works");
  }
  for (const char* const variable : {"ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"}) {
    if (const char* const visible = std::getenv(variable)) {
      return detail::join_message("no AMD GPU is visible: ", variable, "=\"", visible, "\"; unset it to use all");
    }
  }
  return "no AMD GPU is visible: rocminfo lists those that the driver sees";
}

Result look_at_device(int ordinal, Device& device) {
  hipDeviceProp_t properties{};
  const Result result = hipGetDeviceProperties(&properties, ordinal);
  if (result != hipSuccess) return result;
  device.name = properties.name;
  device.target = without_features(properties.gcnArchName);
  device.num_multiprocessors = properties.multiProcessorCount;
  device.shared_memory_per_block = properties.sharedMemPerBlock;
  device.l2_bytes = static_cast<size_t>(properties.l2CacheSize);
  return result;
}

bool is_missing_code(Result result) {
  return result == hipErrorNoBinaryForGpu || result == hipErrorInvalidDeviceFunction || result == hipErrorInvalidImage;
}

std::string explain_missing_code(const Device& device) {
  return detail::join_message("hip:", device.ordinal, " (", device.name, "): target=", explain_targets(device.target));
}

std::string explain_second_runtime() {
  std::set<std::string> runtimes;
  dl_iterate_phdr(
      [](dl_phdr_info* library, size_t, void* found) {
        const std::string path = library->dlpi_name;
        const std::string file = path.substr(path.rfind('/') + 1);
        if (file.starts_with("libamdhip64.so")) static_cast<std::set<std::string>*>(found)->insert(path);
        return 0;
      },
      &runtimes);
  if (runtimes.size() < 2) return "";
  return detail::join_message("it wants another HIP runtime than this build: ", *runtimes.begin(), " and ",
                              *runtimes.rbegin(), "; take the one of the ROCm that quire was built with");
}

}  // namespace quire::gpu::vendor
