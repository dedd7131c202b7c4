// A coroutine is entered by setcontext() once, and kept for later blocks; all other switches are of _setjmp() and
// _longjmp(), which unlike those of ucontext.h make no system call.
#undef _FORTIFY_SOURCE  // its _longjmp() takes another stack for an error
#include "hip/block.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace hip_on_cpu {
namespace {

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 4 << 10;

struct Barrier {
  int arrived = 0;
  uint64_t times_open = 0;

  void open() {
    arrived = 0;
    ++times_open;
  }
};

struct Thread {
  jmp_buf place;       // where it goes on
  ucontext_t context;  // where it starts
  bool has_started = false;

  dim3 index;
  bool has_ended = true;
  const Barrier* waits_for = nullptr;
  uint64_t times_open = 0;  // of that barrier, when it came there
  uint32_t exchanges = 0, votes = 0;

  bool can_go_on() const { return !has_ended && (waits_for == nullptr || waits_for->times_open != times_open); }
};

struct Warp {
  Barrier barrier;
  std::array<std::array<uint64_t, kWarp>, 2> values;  // of this exchange and the one before, which some still read
};

// Of the block that runs now.
std::mutex mutex;
std::array<Thread, kMostThreads> threads;
std::array<Warp, kMostThreads / kWarp> warps;
std::array<Barrier, kMostThreads / 64> pairs;
Barrier whole;
std::array<int, 3> votes;
int num_threads, num_running, current;
jmp_buf launcher;
const std::function<void()>* kernel_now;

/// Leave `place`, to be gone on with later, for `thread`.
void enter(jmp_buf& place, int thread) {
  current = thread;
  if (_setjmp(place) == 0) {
    if (threads[thread].has_started) _longjmp(threads[thread].place, 1);
    threads[thread].has_started = true;
    setcontext(&threads[thread].context);
    fail("cannot be switched to");
  }
}

void let_another_run() {
  const int own = current;
  int next = own;
  do {
    next = next + 1 < num_threads ? next + 1 : 0;
    if (next == own) fail("waits for a thread that does not come");
  } while (!threads[next].can_go_on());
  enter(threads[own].place, next);
  threadIdx = threads[own].index;
}

void wait(Barrier& barrier, int expected) {
  if (++barrier.arrived >= expected) return barrier.open();
  Thread& thread = threads[current];
  thread.waits_for = &barrier;
  thread.times_open = barrier.times_open;
  let_another_run();
  thread.waits_for = nullptr;
}

void end_thread() {
  threads[current].has_ended = true;
  --num_running;
  if (whole.arrived > 0 && whole.arrived >= num_running) whole.open();
  if (num_running > 0) return let_another_run();
  if (_setjmp(threads[current].place) == 0) _longjmp(launcher, 1);
}

/// What a coroutine does: its thread of one block after the other.
void run_threads() {
  for (;;) {
    threadIdx = threads[current].index;
    (*kernel_now)();
    end_thread();
  }
}

void give_stack(Thread& thread) {
  void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuardBytes, PROT_NONE) != 0 || getcontext(&thread.context) != 0) {
    fail("gets no stack");
  }
  thread.context.uc_stack.ss_sp = static_cast<char*>(memory) + kGuardBytes;
  thread.context.uc_stack.ss_size = kStackBytes;
  thread.context.uc_link = nullptr;
  makecontext(&thread.context, run_threads, 0);
}

void run_block() {
  whole = {};
  for (int i = 0; i < num_threads; ++i) {
    Thread& thread = threads[i];
    if (thread.context.uc_stack.ss_sp == nullptr) give_stack(thread);
    const auto number = static_cast<uint32_t>(i);
    thread.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / (blockDim.x * blockDim.y)};
    thread.has_ended = false;
    thread.waits_for = nullptr;
    thread.exchanges = thread.votes = 0;
  }
  for (Warp& warp : warps) warp.barrier = {};
  for (Barrier& pair : pairs) pair = {};
  votes = {};
  num_running = num_threads;
  enter(launcher, 0);
}

}  // namespace

void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& kernel) {
  const std::scoped_lock lock(mutex);
  const uint64_t size = uint64_t{block.x} * block.y * block.z;
  current = 0;
  blockIdx = {0, 0, 0};
  if (size == 0 || size > kMostThreads || size % kWarp != 0) fail("has a block of a size that may not be");
  if (shared_bytes > kMostSharedBytes) fail("wants more shared memory than there is");
  gridDim = grid;
  blockDim = block;
  num_threads = static_cast<int>(size);
  kernel_now = &kernel;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
    }
  }
}

void fail(const char* what) {
  std::fprintf(stderr, "HIP on the CPU: a kernel %s: block=(%u, %u, %u), thread=%d of %d\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, current, num_threads);
  std::abort();
}

int thread_number() {
  return current;
}

void sync_block() {
  wait(whole, num_running);
}

int count_votes(bool vote) {
  const uint32_t time = threads[current].votes++;
  // Nobody needs the sum after next any more: who is here has read it.
  votes[(time + 1) % 3] = 0;
  votes[time % 3] += vote ? 1 : 0;
  sync_block();
  return votes[time % 3];
}

void sync_lanes(int lanes) {
  wait(lanes == kWarp ? warps[current / kWarp].barrier : pairs[current / 64], lanes);
}

const std::array<uint64_t, kWarp>& bring_together(uint64_t value) {
  Warp& warp = warps[current / kWarp];
  auto& values = warp.values[threads[current].exchanges++ % 2];
  values[current % kWarp] = value;
  wait(warp.barrier, kWarp);
  return values;
}

}  // namespace hip_on_cpu
