#pragma once

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace quire {

/// Make the backend that `device` names: "auto" (a GPU if there is one, else the CPU), "cpu", "cpu:portable",
/// "cpu:avx2", "cpu:avx512", "cuda", "cuda:1", "hip", "hip:1".
///
/// GPU backends are shared objects, looked for in the folder QUIRE_BACKEND_PATH if it is set, else beside this library,
/// then where the system's loader looks. Raises: kInvalidArgument for an unknown name (listing the known ones),
/// kUnsupported if this machine or build lacks it, with what to do.
std::unique_ptr<Backend> create_backend(const std::string& device, const BackendOptions& options);

/// Make one for each of the ranks that compute a model together: GPUs from the one that `device` names on; on the CPU
/// they share its threads, with at least one for each.
/// Raises: as create_backend(); kInvalidArgument if there are fewer GPUs.
std::vector<std::unique_ptr<Backend>> create_backends(const std::string& device, const BackendOptions& options,
                                                      int32_t num_ranks);

/// A kind of device, and what is to be had of it here.
struct KnownDevice {
  std::string name;     ///< "cpu", "cuda", "hip"
  int num_devices = 0;  ///< that can be used
  std::string why_none;
  std::string targets;   ///< what this build's code is for; empty if it has none
  std::string standing;  ///< what of that has been run and measured
};

/// All kinds that create_backend() knows. Asks the drivers.
std::vector<KnownDevice> known_devices();

}  // namespace quire
