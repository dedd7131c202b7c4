#include "kernels_cuda/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "core/host.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kDriverPiece = 2 << 20;
constexpr size_t kArenaChunk = 64 << 20;
constexpr size_t kOwnChunk = 8 << 20;  ///< from here on a buffer gets a chunk of its own
constexpr size_t kStageBytes = 8 << 20;
constexpr int kUploadThreads = 4;  ///< one thread moves about 7 GB/s, a bus of today 50
constexpr int64_t kLeastPerThread = 1 << 20;

constexpr size_t kManyPages = 64 << 20;  ///< from here on page-locked memory is made of huge pages
constexpr size_t kHugePage = 2 << 20;
constexpr int64_t kPage = 4096;
constexpr int kTouchThreads = 8;

constexpr size_t round_up(size_t bytes, size_t multiple) {
  return (bytes + multiple - 1) / multiple * multiple;
}

[[noreturn]] void throw_no_page_locked(size_t bytes) {
  throw Error(ErrorKind::kOutOfMemory,
              detail::join_message("[", vendor::kName, "] the system gives no more page-locked memory: wanted=",
                                   bytes >> 20, " MiB; free memory of the host or raise its limit (ulimit -l)"));
}

/// Whether the device sees memory that is locked later at the address that the host has for it.
bool sees_registered_memory() {
  int device = 0;
  check(vendor::current_device(&device), "asking for the device");
  return vendor::sees_locked_memory(device);
}

/// Memory in huge pages, each touched by one of several threads and then locked. The driver's own allocation takes
/// small pages one by one, eight times as long: 1.6 s for 4 GiB.
Buffer lock_huge_pages(size_t bytes) {
  const size_t mapped_bytes = round_up(bytes, kHugePage) + kHugePage;
  void* const mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw_no_page_locked(bytes);
  Buffer memory(reinterpret_cast<void*>(round_up(reinterpret_cast<size_t>(mapped), kHugePage)), bytes,
                [mapped, mapped_bytes](void*, size_t) { munmap(mapped, mapped_bytes); });
  static_cast<void>(madvise(memory.data(), round_up(bytes, kHugePage), MADV_HUGEPAGE));  // advice: it may do without
  auto* const pages = static_cast<volatile std::byte*>(memory.data());
  ThreadPool threads(std::min(kTouchThreads, physical_core_count()));
  threads.parallel_for(static_cast<int64_t>(bytes), static_cast<int64_t>(kHugePage),
                       [&](int64_t begin, int64_t end, int) {
                         for (int64_t byte = begin; byte < end; byte += kPage) pages[byte] = std::byte{0};
                       });
  const vendor::Result result = vendor::lock_host(memory.data(), bytes);
  if (vendor::is_out_of_memory(result)) {
    vendor::forget_error();
    throw_no_page_locked(bytes);
  }
  check(result, "locking memory of the host");
  void* const data = memory.data();
  return {data, bytes, [kept = std::make_shared<const Buffer>(std::move(memory))](void* locked, size_t) {
            if (vendor::unlock_host(locked) != vendor::kSuccess) vendor::forget_error();
          }};
}

}  // namespace

Buffer allocate_device(size_t bytes, int ordinal) {
  if (bytes == 0) return {};
  check(vendor::use_device(ordinal), "choosing the device");
  void* data = nullptr;
  const vendor::Result result = vendor::allocate(&data, bytes);
  if (vendor::is_out_of_memory(result)) {
    vendor::forget_error();
    size_t free_bytes = 0, total_bytes = 0;
    check(vendor::free_and_total(&free_bytes, &total_bytes), "asking for free memory");
    throw Error(
        ErrorKind::kOutOfMemory,
        detail::join_message("[", vendor::kName, "] out of memory: device=", vendor::kName, ":", ordinal,
                             ", wanted=", bytes >> 20, " MiB, free=", free_bytes >> 20, " MiB of ", total_bytes >> 20,
                             " MiB; lower gpu_memory_utilization or max_model_len, or free the GPU"));
  }
  check(result, "allocating memory");
  // A device that has failed, or a process that ends, cannot free: then there is nothing left to do.
  return {data, bytes, [ordinal](void* memory, size_t) {
            static_cast<void>(vendor::use_device(ordinal));
            if (vendor::release(memory) != vendor::kSuccess) vendor::forget_error();
          }};
}

Buffer allocate_page_locked(size_t bytes) {
  if (bytes == 0) return {};
  if (bytes >= kManyPages && sees_registered_memory()) return lock_huge_pages(bytes);
  void* data = nullptr;
  const vendor::Result result = vendor::allocate_host(&data, bytes);
  if (vendor::is_out_of_memory(result)) {
    vendor::forget_error();
    throw_no_page_locked(bytes);
  }
  check(result, "allocating page-locked memory");
  return {data, bytes, [](void* memory, size_t) {
            if (vendor::release_host(memory) != vendor::kSuccess) vendor::forget_error();
          }};
}

Buffer WeightArena::allocate(size_t bytes) {
  if (bytes == 0) return {};
  const std::lock_guard lock(mutex_);
  const size_t padded_bytes = round_up(bytes, kAlignment);
  std::erase_if(open_, [](const Chunk& chunk) { return chunk.memory.expired(); });
  const auto room = [](const Chunk& chunk) { return chunk.bytes - chunk.used; };
  // The tightest fit, so that small buffers fill what large ones leave of their last piece.
  Chunk* best = nullptr;
  for (Chunk& chunk : open_) {
    if (room(chunk) >= padded_bytes && (best == nullptr || room(chunk) < room(*best))) best = &chunk;
  }
  std::shared_ptr<const Buffer> memory = best != nullptr ? best->memory.lock() : nullptr;
  if (memory == nullptr) {
    const size_t chunk_bytes = padded_bytes >= kOwnChunk ? round_up(padded_bytes, kDriverPiece) : kArenaChunk;
    memory = std::make_shared<const Buffer>(allocate_device(chunk_bytes, ordinal_));
    best = &open_.emplace_back(Chunk{memory, 0, chunk_bytes});
  }
  void* const data = static_cast<std::byte*>(memory->data()) + best->used;
  best->used += padded_bytes;
  std::erase_if(open_, [&](const Chunk& chunk) { return room(chunk) == 0; });
  return {data, bytes, [memory](void*, size_t) {}};
}

void Uploader::prepare() {
  if (pool_ == nullptr) pool_ = std::make_unique<ThreadPool>(kUploadThreads);
  for (Stage& stage : stages_) {
    if (stage.memory.data() == nullptr) stage.memory = allocate_page_locked(kStageBytes);
    if (stage.sent == nullptr) {
      check(vendor::create_event(&stage.sent), "creating an event");
    }
  }
}

void Uploader::copy(void* destination, const void* source, size_t bytes, vendor::StreamHandle stream) {
  const std::lock_guard lock(mutex_);
  prepare();
  for (size_t done = 0; done < bytes;) {
    Stage& stage = stages_[next_];
    next_ = 1 - next_;
    const size_t count = std::min(bytes - done, kStageBytes);
    check(vendor::wait_for_event(stage.sent), "copying to the device");
    const auto* const from = static_cast<const std::byte*>(source) + done;
    auto* const to = static_cast<std::byte*>(stage.memory.data());
    pool_->parallel_for(static_cast<int64_t>(count), kLeastPerThread, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
    });
    check(vendor::copy(static_cast<std::byte*>(destination) + done, to, count, stream), "copying to the device");
    check(vendor::record_event(stage.sent, stream), "copying to the device");
    done += count;
  }
}

Uploader::~Uploader() {
  for (const Stage& stage : stages_) {
    if (stage.sent == nullptr) continue;
    static_cast<void>(vendor::wait_for_event(stage.sent));
    vendor::destroy_event(stage.sent);
  }
}

}  // namespace quire::gpu
