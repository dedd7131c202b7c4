// A block of GPU threads on one thread of the processor. Each is a coroutine with a stack of its own, which goes on
// until it has to wait for others; then the next in order that need not wait takes over. So a barrier costs each thread
// one switch, of some ten nanoseconds, and the same launch always goes the same way.
//
// Blocks run one after the other, in order: a kernel may count the blocks that are done, and the last may go on with
// what all have written; it may not wait for another block. Only blocks that are launched together, a cluster or a
// whole grid, run at the same time, each on a thread of the processor, and may wait for each other; so may kernels that
// were launched by several threads. Who waits for what others write to memory calls poll(). Threads that wait for each
// other in vain end the process with a line that says so.
//
// GPU_ON_CPU_SEED: a number from which it is drawn who takes over, and when asynchronous copies are done: at once, or
// not before somebody waits for them. Without it copies take turns in that.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

/// As CUDA's and HIP's.
struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
  constexpr dim3(uint32_t in_x = 1, uint32_t in_y = 1, uint32_t in_z = 1) : x(in_x), y(in_y), z(in_z) {}
};
// Known where they lie when the process starts, so that reading one is no call.
extern thread_local dim3 threadIdx __attribute__((tls_model("initial-exec")));
extern thread_local dim3 blockIdx __attribute__((tls_model("initial-exec")));
extern thread_local dim3 blockDim __attribute__((tls_model("initial-exec")));
extern thread_local dim3 gridDim __attribute__((tls_model("initial-exec")));

namespace gpu_on_cpu {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 227 << 10;  ///< of a block, as NVIDIA's hardware has them; AMD's have 64 KiB

/// How many blocks run at the same time, and how many of them see each other's shared memory, which divides the former.
struct Together {
  uint32_t blocks = 1, cluster = 1;
};

/// Have every thread of every block call `kernel`; return when all have. `together.blocks` divides the grid's x.
void run(dim3 grid, dim3 block, size_t shared_bytes, Together together, const std::function<void()>& kernel);

/// Kernels launched so far. By this name, for tests that look whether the library is there.
extern "C" uint64_t gpu_on_cpu_launches();

/// End the process: a kernel did what it may not.
[[noreturn]] void fail(const char* what);

// For kernels.

/// This thread's number in its block.
int thread_number();

/// Wait for all threads of the block that have not ended.
void sync_block();

/// The same; how many of them voted for it.
int count_votes(bool vote);

/// Wait at barrier number 1 to 15 until `count` threads are there.
void sync_some(int number, int count);

/// Wait for the `lanes` (32 or 64) neighbours among which this thread is. All must come.
void sync_lanes(int lanes);

/// What a lane brings to others.
using Brought = std::array<uint64_t, 4>;
/// What each lane of the warp brings, by lanes. All must come. Stays as it is until this thread calls it once more, and
/// is waited for.
const std::array<Brought, kWarp>& bring_together(const Brought& own);
inline const std::array<Brought, kWarp>& bring_together(uint64_t value) {
  return bring_together(Brought{value});
}

/// What this thread waits for in memory has not come: let others go on.
void poll();

/// The shared memory whose size the launch gives; 1024 bytes are what it is aligned to.
std::byte* dynamic_memory();

// The blocks of this one's cluster.

uint32_t blocks_in_cluster();
uint32_t number_in_cluster();
/// dynamic_memory() of one of them.
std::byte* dynamic_memory_of(uint32_t number);
/// Wait for all threads of all of them.
void sync_cluster();

// Asynchronous copies, and whatever else is under way while threads go on.

/// Do `work` at once, or by and by: not before a thread of the block waits in poll().
void do_sometime(std::function<void()> work);
/// The same of work that this thread has to wait for itself: in groups, in their order.
void copy_sometime(std::function<void()> work);
void end_group();
/// Until at most `pending` groups are under way.
void wait_for_groups(int pending);

}  // namespace gpu_on_cpu
