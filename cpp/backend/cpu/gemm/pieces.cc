#include "backend/cpu/gemm/pieces.h"

#include <algorithm>

#include "backend/cpu/gemm/panels.h"
#include "backend/cpu/stream.h"

namespace quire::cpu {
namespace {

/// Weights, and multiply-adds, below which another worker's help costs more than it brings: 1 us or so.
constexpr int64_t kBytesPerWorker = 16 << 10;
constexpr int64_t kWorkPerWorker = 64 << 10;
/// Weights that a worker takes at a time.
constexpr int64_t kBytesPerTake = 16 << 10;

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int useful_workers(const LinearArgs& args, int workers) {
  const int64_t bytes = panel_bytes(*args.weight) * panel_count(args.weight->n);
  const int64_t work = args.x.shape[0] * args.weight->k * args.weight->n;
  return static_cast<int>(std::clamp<int64_t>(std::max(bytes / kBytesPerWorker, work / kWorkPerWorker), 1, workers));
}

/// Rows of a block: as many as the kernel takes, evenly, unless that leaves workers without any.
int64_t rows_per_block(const LinearArgs& args, const LinearKernel& kernel, int workers) {
  const int64_t rows = args.x.shape[0];
  const int64_t blocks = ceil_div(rows, kernel.rows_per_block);
  if (blocks * panel_count(args.weight->n) < 2 * workers) return kernel.rows_per_tile;
  return ceil_div(ceil_div(rows, blocks), kernel.rows_per_tile) * kernel.rows_per_tile;
}

}  // namespace

void run_linear(const LinearArgs& args, Stream& stream, const LinearKernel& kernel) {
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  CpuStream& cpu = as_cpu(stream);
  const int workers = useful_workers(args, cpu.pool().size());
  const int64_t panels = panel_count(args.weight->n);
  const int64_t block_rows = rows_per_block(args, kernel, workers);
  const int64_t blocks = ceil_div(rows, block_rows);
  // Panels run fastest: a worker's stretch reads the weights front to back, and uses its rows of x while they are near.
  const auto compute = [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t block = begin / panels;
      const int64_t stop = std::min(end, (block + 1) * panels);
      kernel.compute(args, {.row_begin = block * block_rows,
                            .row_end = std::min(rows, (block + 1) * block_rows),
                            .panel_begin = begin - block * panels,
                            .panel_end = stop - block * panels});
      begin = stop;
    }
  };
  if (workers == 1) {
    compute(0, blocks * panels);
    return;
  }
  WorkRanges& work = cpu.work();
  work.deal(blocks * panels, workers);
  const int64_t panels_per_take = std::max<int64_t>(1, kBytesPerTake / panel_bytes(*args.weight));
  cpu.pool().run_sharing([&](int worker) {
    if (worker >= workers) return;
    for (auto range = work.take(worker, panels_per_take); !range.empty(); range = work.take(worker, panels_per_take)) {
      compute(range.begin, range.end);
    }
  });
}

}  // namespace quire::cpu
