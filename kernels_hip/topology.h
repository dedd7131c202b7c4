#pragma once

#include <string>
#include <vector>

namespace quire::gpu {

/// Where the driver (amdkfd) lists processors.
constexpr const char* kTopologyFolder = "/sys/class/kfd/kfd/topology/nodes";

/// Targets of the GPUs that the driver lists in `folder`, "gfx90a" say, in its order; empty if it is not there.
std::vector<std::string> gpu_targets(const std::string& folder);

}  // namespace quire::gpu
