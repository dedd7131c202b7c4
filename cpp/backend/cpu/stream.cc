#include "backend/cpu/stream.h"

#include "backend/cpu/memory.h"

namespace quire::cpu {

void CpuStream::reserve_scratch(size_t bytes_per_worker) {
  for (Buffer& buffer : scratch_) {
    if (buffer.bytes() < bytes_per_worker) buffer = allocate_memory(bytes_per_worker, MemoryKind::kWorkspace);
  }
}

}  // namespace quire::cpu
