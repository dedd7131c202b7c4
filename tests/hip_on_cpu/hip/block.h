// A block of GPU threads on one thread of the processor. Each is a coroutine with a stack of its own, which goes on
// until it has to wait for others; then the next in order that need not wait takes over. So a barrier costs each thread
// one switch, of some ten nanoseconds, and the same launch always goes the same way.
//
// Blocks run one after the other, in order, and launches too, whichever thread they come from. Hence a kernel may count
// the blocks that are done, and the last may go on with what all have written; it may not wait for another block, nor
// spin on memory until another thread writes to it: that would never end. Threads that wait for each other in vain, in
// barriers, end the process with a line that says so.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

/// As HIP's.
struct dim3 {
  uint32_t x = 1, y = 1, z = 1;
  constexpr dim3(uint32_t in_x = 1, uint32_t in_y = 1, uint32_t in_z = 1) : x(in_x), y(in_y), z(in_z) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace hip_on_cpu {

constexpr int kWarp = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kMostSharedBytes = 64 << 10;  ///< of a block, as AMD's hardware has them

/// Have every thread of every block call `kernel`; return when all have.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel);

/// End the process: a kernel did what it may not.
[[noreturn]] void fail(const char* what);

// For kernels.

/// This thread's number in its block.
int thread_number();

/// Wait for all threads of the block that have not ended.
void sync_block();

/// The same; how many of them voted for it.
int count_votes(bool vote);

/// Wait for the `lanes` (32 or 64) neighbours among which this thread is. All must come.
void sync_lanes(int lanes);

/// What each lane of the warp brings, by lanes. All must come. Stays as it is until this thread calls it once more, and
/// is waited for.
const std::array<uint64_t, kWarp>& bring_together(uint64_t value);

}  // namespace hip_on_cpu
