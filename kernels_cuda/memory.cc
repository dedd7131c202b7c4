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
              detail::join_message("[cuda] the system gives no more page-locked memory: wanted=", bytes >> 20,
                                   " MiB; free memory of the host or raise its limit (ulimit -l)"));
}

/// Whether the device sees memory that is locked later at the address that the host has for it.
bool sees_registered_memory() {
  int device = 0, sees = 0;
  check(cudaGetDevice(&device), "asking for the device");
  check(cudaDeviceGetAttribute(&sees, cudaDevAttrCanUseHostPointerForRegisteredMem, device), "asking for the device");
  return sees != 0;
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
  const cudaError_t error = cudaHostRegister(memory.data(), bytes, cudaHostRegisterPortable | cudaHostRegisterMapped);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw_no_page_locked(bytes);
  }
  check(error, "locking memory of the host");
  void* const data = memory.data();
  return {data, bytes, [kept = std::make_shared<const Buffer>(std::move(memory))](void* locked, size_t) {
            if (cudaHostUnregister(locked) != cudaSuccess) cudaGetLastError();
          }};
}

}  // namespace

Buffer allocate_device(size_t bytes, int ordinal) {
  if (bytes == 0) return {};
  check(cudaSetDevice(ordinal), "choosing the device");
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    check(cudaMemGetInfo(&free_bytes, &total_bytes), "asking for free memory");
    throw Error(ErrorKind::kOutOfMemory,
                detail::join_message("[cuda] out of memory: device=cuda:", ordinal, ", wanted=", bytes >> 20,
                                     " MiB, free=", free_bytes >> 20, " MiB of ", total_bytes >> 20,
                                     " MiB; lower gpu_memory_utilization or max_model_len, or free the GPU"));
  }
  check(error, "allocating memory");
  // A device that has failed, or a process that ends, cannot free: then there is nothing left to do.
  return {data, bytes, [ordinal](void* memory, size_t) {
            cudaSetDevice(ordinal);
            if (cudaFree(memory) != cudaSuccess) cudaGetLastError();
          }};
}

Buffer allocate_page_locked(size_t bytes) {
  if (bytes == 0) return {};
  if (bytes >= kManyPages && sees_registered_memory()) return lock_huge_pages(bytes);
  void* data = nullptr;
  const cudaError_t error = cudaHostAlloc(&data, bytes, cudaHostAllocPortable | cudaHostAllocMapped);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw_no_page_locked(bytes);
  }
  check(error, "allocating page-locked memory");
  return {data, bytes, [](void* memory, size_t) {
            if (cudaFreeHost(memory) != cudaSuccess) cudaGetLastError();
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
      check(cudaEventCreateWithFlags(&stage.sent, cudaEventDisableTiming), "creating an event");
    }
  }
}

void Uploader::copy(void* destination, const void* source, size_t bytes, cudaStream_t stream) {
  const std::lock_guard lock(mutex_);
  prepare();
  for (size_t done = 0; done < bytes;) {
    Stage& stage = stages_[next_];
    next_ = 1 - next_;
    const size_t count = std::min(bytes - done, kStageBytes);
    check(cudaEventSynchronize(stage.sent), "copying to the device");
    const auto* const from = static_cast<const std::byte*>(source) + done;
    auto* const to = static_cast<std::byte*>(stage.memory.data());
    pool_->parallel_for(static_cast<int64_t>(count), kLeastPerThread, [&](int64_t begin, int64_t end, int) {
      std::memcpy(to + begin, from + begin, static_cast<size_t>(end - begin));
    });
    check(cudaMemcpyAsync(static_cast<std::byte*>(destination) + done, to, count, cudaMemcpyDefault, stream),
          "copying to the device");
    check(cudaEventRecord(stage.sent, stream), "copying to the device");
    done += count;
  }
}

Uploader::~Uploader() {
  for (const Stage& stage : stages_) {
    if (stage.sent == nullptr) continue;
    cudaEventSynchronize(stage.sent);
    cudaEventDestroy(stage.sent);
  }
}

}  // namespace quire::gpu
