#pragma once

#include <memory>

#include "backend/backend.h"

namespace quire::cpu {

/// Main memory for one use, 64-byte aligned, on huge pages where that helps and the system has them.
/// Raises: kOutOfMemory with the size and what is free.
Buffer allocate_memory(size_t bytes, MemoryKind kind);

/// Weights one behind the other on huge pages: most matrices of a small model are smaller than one such page.
/// A chunk of pages goes back to the system with the last buffer in it.
class WeightArena {
 public:
  /// Raises: as allocate_memory().
  Buffer allocate(size_t bytes);

 private:
  std::shared_ptr<const Buffer> chunk_;
  size_t used_ = 0;
};

}  // namespace quire::cpu
