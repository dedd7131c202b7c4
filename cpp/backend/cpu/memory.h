#pragma once

#include "backend/backend.h"

namespace quire::cpu {

/// Main memory for one use, 64-byte aligned, on huge pages where that helps and the system has them.
/// Raises: kOutOfMemory with the size and what is free.
Buffer allocate_memory(size_t bytes, MemoryKind kind);

}  // namespace quire::cpu
