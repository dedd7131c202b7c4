#pragma once

#include <chrono>

namespace quire {

/// Tell the processor that a thread only looks for something to change.
inline void pause_processor() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("isb");
#endif
}

/// Wait until `done()`, at most for `limit`, without sleeping. Whether it came.
template <typename Done>
bool spin_until(std::chrono::nanoseconds limit, Done done) {
  constexpr int kPausesPerClockRead = 32;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      pause_processor();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return done();
}

}  // namespace quire
