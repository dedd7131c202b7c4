#pragma once

#include <algorithm>
#include <cstdint>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/cpu/stream.h"

namespace quire::cpu {

/// How many of the stream's workers are worth waking for reading so many weights once and doing so many multiply-adds.
int useful_workers(int64_t weight_bytes, int64_t multiply_adds, CpuStream& cpu);

/// Rows of a block, that is rows that use each panel together, when `rows` are cut into blocks: as many as the kernel
/// takes, evenly.
int64_t even_block_rows(int64_t rows, const LinearKernel& kernel);

/// Call body(block, panel_begin, panel_end, worker) on `workers` workers, so that together the calls cover all panels
/// of all blocks. Panels run fastest: a worker's stretch reads the weights front to back, and uses its rows of x while
/// they are near.
template <typename Body>
void share_panels(CpuStream& cpu, int workers, int64_t blocks, const PackedLinear& weight, const Body& body) {
  /// Weights that a worker takes at a time.
  constexpr int64_t kBytesPerTake = 16 << 10;
  const int64_t panels = panel_count(weight.n);
  const auto compute = [&](int64_t begin, int64_t end, int worker) {
    while (begin < end) {
      const int64_t block = begin / panels;
      const int64_t stop = std::min(end, (block + 1) * panels);
      body(block, begin - block * panels, stop - block * panels, worker);
      begin = stop;
    }
  };
  if (workers == 1) {
    compute(0, blocks * panels, 0);
    return;
  }
  WorkRanges& work = cpu.work();
  work.deal(blocks * panels, workers);
  const int64_t panels_per_take = std::max<int64_t>(1, kBytesPerTake / panel_bytes(weight));
  cpu.pool().run_sharing([&](int worker) {
    if (worker >= workers) return;
    for (auto range = work.take(worker, panels_per_take); !range.empty(); range = work.take(worker, panels_per_take)) {
      compute(range.begin, range.end, worker);
    }
  });
}

}  // namespace quire::cpu
