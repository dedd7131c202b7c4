#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace quire {

/// What a shared object with a backend tells about itself: its function `quire_backend` returns a pointer to one.
struct LoadableBackend {
  /// kBackendInterfaceVersion it was built with; read before anything else.
  int interface_version = kBackendInterfaceVersion;
  /// What its code is for, "gfx90a gfx1030" say.
  const char* targets = nullptr;
  /// Devices that can be used here; 0 with the reason.
  int (*count_devices)(std::string& why_none) = nullptr;
  /// Raises: as the backend's constructor.
  std::unique_ptr<Backend> (*create)(int ordinal, const BackendOptions& options) = nullptr;
};

using LoadableBackendFn = const LoadableBackend* (*)();

}  // namespace quire
