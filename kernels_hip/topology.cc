#include "kernels_hip/topology.h"

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>

namespace quire::gpu {
namespace {

/// 90010 -> "gfx90a": two decimal digits each for major, minor and stepping, of which the target writes the latter two
/// as hexadecimal ones.
std::string target_name(int version) {
  char name[32];
  std::snprintf(name, sizeof(name), "gfx%d%x%x", version / 10000, static_cast<unsigned>(version / 100 % 100),
                static_cast<unsigned>(version % 100));
  return name;
}

}  // namespace

std::vector<std::string> gpu_targets(const std::string& folder) {
  std::vector<std::string> targets;
  for (int node = 0;; ++node) {
    std::ifstream properties(std::filesystem::path(folder) / std::to_string(node) / "properties");
    if (!properties) return targets;
    std::string key;
    int64_t value = 0;
    while (properties >> key >> value) {
      // A processor that is no GPU has version 0.
      if (key == "gfx_target_version" && value > 0) targets.push_back(target_name(static_cast<int>(value)));
    }
  }
}

}  // namespace quire::gpu
