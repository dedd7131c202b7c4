#include "core/host.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace quire {
namespace {

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::optional<int64_t> to_integer(const std::string& text) {
  try {
    return std::stoll(text);
  } catch (const std::exception&) {
    return std::nullopt;  // "max", or no such file
  }
}

/// Folders of this process's control group for `controller`, and of all groups above it, whose limits hold too.
/// Version 1 has a tree per controller, version 2 (line "0::/path") one for all. A container may show only its own part
/// of the tree as the root, so folders that do not exist are the caller's normal case.
std::vector<std::string> cgroup_folders(const std::string& controller) {
  std::vector<std::string> folders;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool unified = controllers == ",,";
    if (!unified && controllers.find("," + controller + ",") == std::string::npos) continue;
    const std::string root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/" + controller;
    std::string path = line.substr(second + 1);
    while (path.size() > 1) {
      folders.push_back(root + path);
      path.resize(std::max<size_t>(path.find_last_of('/'), 1));
    }
    folders.push_back(root);
  }
  return folders;
}

/// Processors' worth of time that the control groups allow; empty without a limit.
std::optional<double> cgroup_processors() {
  std::optional<double> least;
  const auto take = [&](std::optional<int64_t> quota, std::optional<int64_t> period) {
    if (!quota || !period || *quota <= 0 || *period <= 0) return;
    const double processors = static_cast<double>(*quota) / static_cast<double>(*period);
    least = least ? std::min(*least, processors) : processors;
  };
  for (const std::string& folder : cgroup_folders("cpu")) {
    take(to_integer(first_line(folder + "/cpu.cfs_quota_us")), to_integer(first_line(folder + "/cpu.cfs_period_us")));
    const std::string both = first_line(folder + "/cpu.max");
    const size_t space = both.find(' ');
    if (space != std::string::npos) take(to_integer(both), to_integer(both.substr(space + 1)));
  }
  return least;
}

/// Bytes that the control groups leave; the largest integer without a limit.
int64_t cgroup_memory_left() {
  int64_t least = std::numeric_limits<int64_t>::max();
  const auto take = [&](std::optional<int64_t> limit, std::optional<int64_t> usage) {
    if (limit && usage) least = std::min(least, std::max<int64_t>(0, *limit - *usage));
  };
  for (const std::string& folder : cgroup_folders("memory")) {
    take(to_integer(first_line(folder + "/memory.limit_in_bytes")),
         to_integer(first_line(folder + "/memory.usage_in_bytes")));
    take(to_integer(first_line(folder + "/memory.max")), to_integer(first_line(folder + "/memory.current")));
  }
  return least;
}

std::optional<int64_t> system_memory_available() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("MemAvailable:")) continue;
    const std::optional<int64_t> kibibytes = to_integer(line.substr(line.find(':') + 1));
    return kibibytes ? std::optional(*kibibytes * 1024) : std::nullopt;
  }
  return std::nullopt;
}

/// Cores that the affinity mask leaves, threads of one core counted once; 0 if the system does not say.
int cores_in_affinity_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0) return 0;
  std::set<std::string> cores;
  for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
    if (!CPU_ISSET(processor, &mask)) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(processor) + "/topology/";
    const std::string siblings = first_line(folder + "thread_siblings_list");
    cores.insert(siblings.empty() ? "processor " + std::to_string(processor) : siblings);
  }
  return static_cast<int>(cores.size());
}

}  // namespace

int physical_core_count() {
  int cores = cores_in_affinity_mask();
  if (cores == 0) cores = static_cast<int>(std::thread::hardware_concurrency());
  // Rounded down: a group that overdraws its quota is stopped, and with it a thread that the others wait for.
  if (const std::optional<double> quota = cgroup_processors()) cores = std::min(cores, static_cast<int>(*quota));
  return std::max(cores, 1);
}

int64_t available_host_memory() {
  const int64_t free = system_memory_available().value_or(std::numeric_limits<int64_t>::max());
  return std::min(free, cgroup_memory_left());
}

int64_t total_host_memory() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  const int64_t page_bytes = sysconf(_SC_PAGESIZE);
  return pages > 0 && page_bytes > 0 ? pages * page_bytes : std::numeric_limits<int64_t>::max();
}

}  // namespace quire
