#include "backend/cpu/memory.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>

#include "core/check.h"
#include "core/host.h"

namespace quire::cpu {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kArenaChunk = 16 << 20;

constexpr size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

[[noreturn]] void throw_out_of_memory(size_t bytes) {
  throw Error(
      ErrorKind::kOutOfMemory,
      detail::join_message("[cpu backend] out of memory: wanted=", bytes >> 20,
                           " MiB, available=", available_host_memory() >> 20,
                           " MiB; choose a smaller model, a smaller dtype, a smaller max_model_len or a smaller "
                           "KV cache"));
}

Buffer allocate_small(size_t bytes) {
  void* const data = std::aligned_alloc(kAlignment, round_up(bytes, kAlignment));
  if (data == nullptr) throw_out_of_memory(bytes);
  return {data, bytes, [](void* memory, size_t) { std::free(memory); }};
}

/// Fresh pages of the system: zero, and committed as they are touched.
Buffer allocate_pages(size_t bytes, bool huge) {
  const size_t alignment = huge ? kHugePage : 0;
  const size_t mapped_bytes = round_up(bytes, kHugePage) + alignment;
  void* const mapped =
      mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw_out_of_memory(bytes);
  void* data = mapped;
  if (huge) {
    data = reinterpret_cast<void*>(round_up(reinterpret_cast<size_t>(mapped), kHugePage));
    // Only advice: without huge pages everything works, with more time lost on address translation.
    static_cast<void>(madvise(data, round_up(bytes, kHugePage), MADV_HUGEPAGE));
  }
  return {data, bytes, [mapped, mapped_bytes](void*, size_t) { munmap(mapped, mapped_bytes); }};
}

}  // namespace

Buffer allocate_memory(size_t bytes, MemoryKind kind) {
  if (bytes == 0) return {};
  const bool large = bytes >= kHugePage;
  // Linux promises more than it has and kills the process later, so the question is put here.
  if (large && bytes > static_cast<size_t>(available_host_memory())) throw_out_of_memory(bytes);
  // Not huge for the KV cache: its blocks are touched one by one, and most may never be.
  if (kind == MemoryKind::kKvCache) return allocate_pages(bytes, false);
  return large ? allocate_pages(bytes, true) : allocate_small(bytes);
}

Buffer WeightArena::allocate(size_t bytes) {
  if (bytes >= kArenaChunk) return allocate_memory(bytes, MemoryKind::kWeights);
  const size_t padded_bytes = round_up(bytes, kAlignment);
  if (chunk_ == nullptr || used_ + padded_bytes > chunk_->bytes()) {
    chunk_ = std::make_shared<const Buffer>(allocate_memory(kArenaChunk, MemoryKind::kWeights));
    used_ = 0;
  }
  void* const data = static_cast<std::byte*>(chunk_->data()) + used_;
  used_ += padded_bytes;
  return {data, bytes, [chunk = chunk_](void*, size_t) {}};
}

}  // namespace quire::cpu
