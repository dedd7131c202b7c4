#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

namespace quire::cpu {

/// Numbers [0, count) dealt out evenly to workers: each takes its own in order, which keeps it on one stretch of
/// memory, and whoever has none left takes half of what the slowest still has, so that a worker that was held up does
/// not hold up the others.
///
/// Thread safety: deal() by one thread before the workers start; take() by every worker with its own number.
class WorkRanges {
 public:
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;

    bool empty() const { return begin >= end; }
  };

  explicit WorkRanges(int max_workers) : shares_(std::make_unique<Share[]>(static_cast<size_t>(max_workers))) {}

  /// `count` < 2^32.
  void deal(int64_t count, int workers);

  /// The next numbers for `worker`, `most` at a time; empty when all are taken.
  Range take(int worker, int64_t most);

 private:
  /// Begin in the upper half, end in the lower one. On a cache line of its own: mostly one worker touches it.
  struct alignas(64) Share {
    std::atomic<uint64_t> range{0};
  };

  bool steal(int worker);

  std::unique_ptr<Share[]> shares_;
  int workers_ = 0;
};

}  // namespace quire::cpu
