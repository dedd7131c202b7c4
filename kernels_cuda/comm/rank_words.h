#pragma once

#include <cstdint>

namespace quire::gpu {

/// As many ranks as a host has GPUs on one switch.
constexpr int kMostRanks = 8;

/// Why ranks do not wait for each other any more.
enum StopReason : uint32_t { kGoOn = 0, kAborted = 1, kWaitedTooLong = 2 };

/// What the ranks' kernels and the host tell each other: page-locked memory that all devices see.
struct RankWords {
  uint32_t stop = kGoOn;  ///< a StopReason; once set, nobody waits
  /// Of each rank that gave up waiting: 1 + the rank that it waited for.
  uint32_t missing[kMostRanks]{};
  /// How long a kernel waits for another rank, and how long in the first calls, when others may still be loading code.
  uint64_t limit_ns = 0;
  uint64_t first_limit_ns = 0;
};

}  // namespace quire::gpu
