#include "backend/cpu/work_ranges.h"

#include <algorithm>

namespace quire::cpu {
namespace {

// Only numbers travel through these atomics, and each to exactly one taker, so no order beyond their own is needed.
constexpr auto kRelaxed = std::memory_order_relaxed;

uint64_t pack(int64_t begin, int64_t end) {
  return static_cast<uint64_t>(begin) << 32 | static_cast<uint64_t>(end);
}

WorkRanges::Range unpack(uint64_t packed) {
  return {static_cast<int64_t>(packed >> 32), static_cast<int64_t>(packed & 0xffffffffu)};
}

}  // namespace

void WorkRanges::deal(int64_t count, int workers) {
  workers_ = workers;
  for (int i = 0; i < workers; ++i) {
    shares_[static_cast<size_t>(i)].range.store(pack(count * i / workers, count * (i + 1) / workers), kRelaxed);
  }
}

WorkRanges::Range WorkRanges::take(int worker, int64_t most) {
  std::atomic<uint64_t>& own = shares_[static_cast<size_t>(worker)].range;
  do {
    uint64_t packed = own.load(kRelaxed);
    for (Range range = unpack(packed); !range.empty(); range = unpack(packed)) {
      const int64_t next = std::min(range.end, range.begin + most);
      if (own.compare_exchange_weak(packed, pack(next, range.end), kRelaxed)) return {range.begin, next};
    }
  } while (steal(worker));
  return {};
}

/// Move half of the largest share to this worker's, which is empty, so nobody else writes to it. False if all are
/// empty.
bool WorkRanges::steal(int worker) {
  while (true) {
    Share* victim = nullptr;
    uint64_t seen = 0;
    int64_t most_left = 0;
    for (int i = 0; i < workers_; ++i) {
      Share& share = shares_[static_cast<size_t>(i)];
      const uint64_t packed = share.range.load(kRelaxed);
      const Range range = unpack(packed);
      if (range.end - range.begin <= most_left) continue;
      victim = &share;
      seen = packed;
      most_left = range.end - range.begin;
    }
    if (victim == nullptr) return false;
    const Range range = unpack(seen);
    const int64_t middle = range.begin + most_left / 2;
    if (!victim->range.compare_exchange_strong(seen, pack(range.begin, middle), kRelaxed)) continue;
    shares_[static_cast<size_t>(worker)].range.store(pack(middle, range.end), kRelaxed);
    return true;
  }
}

}  // namespace quire::cpu
