#pragma once

namespace quire::gpu {

/// A stage, as those who fill a ring and those who empty it go round.
struct Position {
  int stage = 0;
  unsigned parity = 0;
  __device__ void advance(int num_stages) {
    if (++stage < num_stages) return;
    stage = 0;
    parity ^= 1;
  }
};

}  // namespace quire::gpu
