// A coroutine is entered by setcontext() once, and kept for later blocks; all other switches are of _setjmp() and
// _longjmp(), which unlike those of ucontext.h make no system call.
#undef _FORTIFY_SOURCE  // its _longjmp() takes another stack for an error
#include "gpu_on_cpu/block.h"

#include <sched.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace gpu_on_cpu {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 4 << 10;
constexpr int kNamedBarriers = 16;
/// With a seed, how often and how long, in microseconds, a block sleeps.
constexpr uint64_t kPollsPerNap = 200'000, kLongestNap = 20'000;
/// That a block may take in which threads poll, on a machine that does other things too.
constexpr std::chrono::seconds kMostPolling{300};

struct Barrier {
  int arrived = 0;
  uint64_t times_open = 0;

  void open() {
    arrived = 0;
    ++times_open;
  }
};

struct Thread {
  jmp_buf place;         // where it goes on
  ucontext_t context{};  // where it starts
  bool has_started = false;

  dim3 index;
  bool has_ended = true;
  const Barrier* waits_for = nullptr;
  uint64_t times_open = 0;  // of that barrier, when it came there
  uint32_t exchanges = 0, votes = 0;
  std::deque<std::vector<std::function<void()>>> groups;  // of copies; the last one is still open

  char* stack() const { return static_cast<char*>(context.uc_stack.ss_sp); }
  bool can_go_on() const { return !has_ended && (waits_for == nullptr || waits_for->times_open != times_open); }
};

struct Warp {
  Barrier barrier;
  std::array<std::array<Brought, kWarp>, 2> values;  // of this exchange and the one before, which some still read
};

/// Blocks that run at the same time.
struct Group {
  explicit Group(uint32_t size) : memories(size) {}
  std::vector<std::byte*> memories;
  std::atomic<uint32_t> threads_arrived{0};
  std::atomic<uint32_t> times_open{0};
  std::atomic<uint32_t> blocks_begun{0};
};

uint64_t seed() {
  static const uint64_t number = [] {
    const char* const value = std::getenv("GPU_ON_CPU_SEED");
    return value == nullptr ? 0 : std::strtoull(value, nullptr, 10);
  }();
  return number;
}

/// One thread of the processor, as the multiprocessor that runs a block.
class Processor {
 public:
  Processor() : dynamic_(static_cast<std::byte*>(std::aligned_alloc(1024, kMostSharedBytes))) {}
  ~Processor() {
    for (Thread& thread : threads_) {
      if (thread.stack() != nullptr) munmap(thread.stack() - kGuardBytes, kGuardBytes + kStackBytes);
    }
    std::free(dynamic_);
  }
  Processor(const Processor&) = delete;
  Processor& operator=(const Processor&) = delete;

  bool is_busy() const { return num_running_ > 0; }

  /// blockIdx, blockDim and gridDim are set.
  void run_block(const std::function<void()>& kernel, Group& group, uint32_t number) {
    kernel_ = &kernel;
    group_ = &group;
    number_ = number;
    group.memories[number] = dynamic_;
    group.blocks_begun.fetch_add(1);
    // Before others write here.
    while (group.blocks_begun.load() < group.memories.size()) sched_yield();
    const uint64_t size = uint64_t{blockDim.x} * blockDim.y * blockDim.z;
    num_threads_ = static_cast<int>(size);
    whole_ = {};
    for (int i = 0; i < num_threads_; ++i) {
      Thread& thread = threads_[i];
      if (thread.stack() == nullptr) give_stack(thread);
      const auto own = static_cast<uint32_t>(i);
      thread.index = {own % blockDim.x, own / blockDim.x % blockDim.y, own / (blockDim.x * blockDim.y)};
      thread.has_ended = false;
      thread.waits_for = nullptr;
      thread.exchanges = thread.votes = 0;
      thread.groups.clear();
    }
    for (Warp& warp : warps_) warp.barrier = {};
    for (Barrier& pair : pairs_) pair = {};
    for (Barrier& barrier : named_) barrier = {};
    votes_ = {};
    num_running_ = num_threads_;
    idle_polls_ = 0;
    begin_ = Clock::now();
    random_ = (seed() + 1) * 0x9e3779b97f4a7c15u + ++blocks_;
    enter(launcher_, 0);
  }

  int current() const { return current_; }
  int num_threads() const { return num_threads_; }
  Group& group() const { return *group_; }
  uint32_t number() const { return number_; }
  std::byte* dynamic() const { return dynamic_; }

  void sync_block() { wait(whole_, num_running_); }

  int count_votes(bool vote) {
    const uint32_t time = threads_[current_].votes++;
    // Nobody needs the sum after next any more: who is here has read it.
    votes_[(time + 1) % 3] = 0;
    votes_[time % 3] += vote ? 1 : 0;
    sync_block();
    return votes_[time % 3];
  }

  void sync_some(int number, int count) { wait(named_.at(static_cast<size_t>(number)), count); }

  void sync_lanes(int lanes) { wait(lanes == kWarp ? warps_[current_ / kWarp].barrier : pairs_[current_ / 64], lanes); }

  const std::array<Brought, kWarp>& bring_together(const Brought& own) {
    Warp& warp = warps_[current_ / kWarp];
    auto& values = warp.values[threads_[current_].exchanges++ % 2];
    values[current_ % kWarp] = own;
    wait(warp.barrier, kWarp);
    return values;
  }

  void poll() {
    do_one();
    // Blocks that run together get apart.
    if (seed() != 0 && group_->memories.size() > 1 && draw() % kPollsPerNap == 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(draw() % kLongestNap));
    }
    // All have looked, and in vain, as far as one knows: it is for others to do something.
    if (++idle_polls_ >= num_running_) {
      idle_polls_ = 0;
      sched_yield();
      if (Clock::now() - begin_ > kMostPolling) fail("polls for what does not come");
    }
    let_another_run();
  }

  void do_sometime(std::function<void()> work) {
    if (draw() % 2 == 0) return work();
    under_way_.push_back(std::move(work));
  }

  void copy_sometime(std::function<void()> work) {
    auto& groups = threads_[current_].groups;
    const bool is_first = std::all_of(groups.begin(), groups.end(), [](const auto& group) { return group.empty(); });
    if (is_first && draw() % 2 == 0) return work();
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back(std::move(work));
  }

  void end_group() {
    auto& groups = threads_[current_].groups;
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
  }

  void wait_for_groups(int pending) {
    auto& groups = threads_[current_].groups;
    while (static_cast<int>(groups.size()) - 1 > pending) {
      for (const auto& work : groups.front()) work();
      groups.pop_front();
    }
  }

 private:
  uint64_t draw() {
    if (seed() == 0) return turn_++;
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_ >> 16;
  }

  /// Of what is under way.
  void do_one() {
    if (under_way_.empty()) return;
    const auto which = under_way_.begin() + static_cast<ptrdiff_t>(seed() == 0 ? 0 : draw() % under_way_.size());
    const std::function<void()> work = std::move(*which);
    under_way_.erase(which);
    work();
  }

  /// Leave `place`, to be gone on with later, for `thread`.
  void enter(jmp_buf& place, int thread) {
    current_ = thread;
    if (_setjmp(place) == 0) {
      if (threads_[thread].has_started) _longjmp(threads_[thread].place, 1);
      threads_[thread].has_started = true;
      setcontext(&threads_[thread].context);
      fail("cannot be switched to");
    }
  }

  /// Ends the process if no thread can go on, not even this one.
  void let_another_run() {
    const int own = current_;
    int next = own;
    if (seed() != 0) next = static_cast<int>(draw() % static_cast<uint64_t>(num_threads_));
    for (int i = 0; i < num_threads_; ++i) {
      next = next + 1 < num_threads_ ? next + 1 : 0;
      if (threads_[next].can_go_on()) break;
      if (i + 1 == num_threads_) fail("waits for a thread that does not come");
    }
    if (next != own) enter(threads_[own].place, next);
    threadIdx = threads_[own].index;
  }

  void wait(Barrier& barrier, int expected) {
    idle_polls_ = 0;
    if (++barrier.arrived >= expected) return barrier.open();
    Thread& thread = threads_[current_];
    thread.waits_for = &barrier;
    thread.times_open = barrier.times_open;
    let_another_run();
    thread.waits_for = nullptr;
  }

  void end_thread() {
    wait_for_groups(0);
    threads_[current_].has_ended = true;
    --num_running_;
    if (whole_.arrived > 0 && whole_.arrived >= num_running_) whole_.open();
    if (num_running_ > 0) return let_another_run();
    if (!under_way_.empty()) fail("ends with copies under way");
    if (_setjmp(threads_[current_].place) == 0) _longjmp(launcher_, 1);
  }

  /// What a coroutine does: its thread of one block after the other.
  static void run_threads();

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

  std::array<Thread, kMostThreads> threads_;
  std::array<Warp, kMostThreads / kWarp> warps_;
  std::array<Barrier, kMostThreads / 64> pairs_;
  std::array<Barrier, kNamedBarriers> named_;
  Barrier whole_;
  std::array<int, 3> votes_{};
  std::deque<std::function<void()>> under_way_;
  int num_threads_ = 0, num_running_ = 0, current_ = 0;
  int idle_polls_ = 0;
  uint64_t random_ = 0, turn_ = 0, blocks_ = 0;
  Clock::time_point begin_;
  jmp_buf launcher_;
  const std::function<void()>* kernel_ = nullptr;
  Group* group_ = nullptr;
  uint32_t number_ = 0;
  std::byte* dynamic_;
};

thread_local Processor* own_processor __attribute__((tls_model("initial-exec"))) = nullptr;

Processor& make_processor() {
  static thread_local std::unique_ptr<Processor> made;
  made = std::make_unique<Processor>();
  own_processor = made.get();
  return *made;
}

inline Processor& processor() {
  return own_processor != nullptr ? *own_processor : make_processor();
}

void Processor::run_threads() {
  Processor& own = processor();
  for (;;) {
    threadIdx = own.threads_[own.current_].index;
    (*own.kernel_)();
    own.end_thread();
  }
}

/// A thread for blocks that run together with others. Such threads are kept, with their coroutines.
class Helper {
 public:
  Helper() : thread_([this] { serve(); }) {}
  ~Helper() {
    start(nullptr);
    thread_.join();
  }

  void start(const std::function<void()>* work) {
    {
      const std::scoped_lock lock(mutex_);
      work_ = work;
      is_wanted_ = true;
    }
    changed_.notify_all();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return !is_wanted_; });
  }

 private:
  void serve() {
    for (;;) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return is_wanted_; });
      if (work_ == nullptr) return;
      lock.unlock();
      (*work_)();
      lock.lock();
      is_wanted_ = false;
      lock.unlock();
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_wanted_ = false;
  const std::function<void()>* work_ = nullptr;
  std::thread thread_;
};

class Helpers {
 public:
  std::unique_ptr<Helper> take() {
    const std::scoped_lock lock(mutex_);
    if (free_.empty()) return std::make_unique<Helper>();
    std::unique_ptr<Helper> helper = std::move(free_.back());
    free_.pop_back();
    return helper;
  }
  void give_back(std::unique_ptr<Helper> helper) {
    const std::scoped_lock lock(mutex_);
    free_.push_back(std::move(helper));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Helper>> free_;
};

Helpers& helpers() {
  static Helpers all;
  return all;
}

std::atomic<uint64_t> num_launches{0};

}  // namespace

uint64_t gpu_on_cpu_launches() {
  return num_launches;
}

void run(dim3 grid, dim3 block, size_t shared_bytes, Together together, const std::function<void()>& kernel) {
  const uint64_t size = uint64_t{block.x} * block.y * block.z;
  ++num_launches;
  blockIdx = {0, 0, 0};
  if (size == 0 || size > kMostThreads || size % kWarp != 0) fail("has a block of a size that may not be");
  if (shared_bytes > kMostSharedBytes) fail("wants more shared memory than there is");
  const uint32_t at_once = together.blocks, cluster = together.cluster;
  if (cluster == 0 || at_once % cluster != 0 || at_once == 0 || grid.x % at_once != 0) {
    fail("has a grid of a size that may not be");
  }
  std::vector<std::unique_ptr<Helper>> team;
  while (at_once > 1 && team.size() < at_once) team.push_back(helpers().take());
  const auto run_block = [&](dim3 index, Group& group, uint32_t number) {
    blockIdx = index;
    gridDim = grid;
    blockDim = block;
    processor().run_block(kernel, group, number);
  };
  for (uint32_t z = 0; z < grid.z; ++z) {
    for (uint32_t y = 0; y < grid.y; ++y) {
      for (uint32_t x = 0; x < grid.x; x += at_once) {
        std::deque<Group> groups;
        while (groups.size() < at_once / cluster) groups.emplace_back(cluster);
        if (at_once == 1) {
          run_block({x, y, z}, groups.front(), 0);
          continue;
        }
        std::vector<std::function<void()>> works(at_once);
        for (uint32_t i = 0; i < at_once; ++i) {
          works[i] = [&, i] { run_block({x + i, y, z}, groups[i / cluster], i % cluster); };
          team[i]->start(&works[i]);
        }
        for (const auto& helper : team) helper->wait();
      }
    }
  }
  for (auto& helper : team) helpers().give_back(std::move(helper));
}

void fail(const char* what) {
  std::fprintf(stderr, "GPU on the CPU: a kernel %s: block=(%u, %u, %u), thread=%d of %d\n", what, blockIdx.x,
               blockIdx.y, blockIdx.z, processor().current(), processor().num_threads());
  std::abort();
}

int thread_number() {
  return processor().current();
}

void sync_block() {
  processor().sync_block();
}

int count_votes(bool vote) {
  return processor().count_votes(vote);
}

void sync_some(int number, int count) {
  processor().sync_some(number, count);
}

void sync_lanes(int lanes) {
  processor().sync_lanes(lanes);
}

const std::array<Brought, kWarp>& bring_together(const Brought& own) {
  return processor().bring_together(own);
}

void poll() {
  Processor& own = processor();
  own.is_busy() ? own.poll() : std::this_thread::yield();
}

std::byte* dynamic_memory() {
  return processor().dynamic();
}

uint32_t blocks_in_cluster() {
  return static_cast<uint32_t>(processor().group().memories.size());
}

uint32_t number_in_cluster() {
  return processor().number();
}

std::byte* dynamic_memory_of(uint32_t number) {
  return processor().group().memories.at(number);
}

void sync_cluster() {
  Processor& own = processor();
  Group& group = own.group();
  const uint32_t times_open = group.times_open.load();
  const auto expected = blocks_in_cluster() * static_cast<uint32_t>(own.num_threads());
  if (group.threads_arrived.fetch_add(1) + 1 == expected) {
    group.threads_arrived.store(0);
    group.times_open.fetch_add(1);
    return;
  }
  while (group.times_open.load() == times_open) own.poll();
}

void do_sometime(std::function<void()> work) {
  processor().do_sometime(std::move(work));
}

void copy_sometime(std::function<void()> work) {
  processor().copy_sometime(std::move(work));
}

void end_group() {
  processor().end_group();
}

void wait_for_groups(int pending) {
  processor().wait_for_groups(pending);
}

}  // namespace gpu_on_cpu
