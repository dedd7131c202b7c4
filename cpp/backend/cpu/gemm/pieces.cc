#include "backend/cpu/gemm/pieces.h"

#include <algorithm>

#include "backend/cpu/gemm/share.h"

namespace quire::cpu {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

/// even_block_rows(), unless that leaves workers without any block; of `groups` matrices.
int64_t rows_per_block(int64_t rows, int64_t groups, const PackedLinear& weight, const LinearKernel& kernel,
                       int workers) {
  const int64_t blocks = groups * ceil_div(rows, kernel.rows_per_block);
  return blocks * panel_count(weight.n) < 2 * workers ? kernel.rows_per_tile : even_block_rows(rows, kernel);
}

}  // namespace

int useful_workers(int64_t weight_bytes, int64_t multiply_adds, CpuStream& cpu) {
  // Below this another worker's help costs more than it brings: 1 us or so.
  constexpr int64_t kBytesPerWorker = 16 << 10;
  constexpr int64_t kWorkPerWorker = 64 << 10;
  const int64_t useful = std::max(weight_bytes / kBytesPerWorker, multiply_adds / kWorkPerWorker);
  return static_cast<int>(std::clamp<int64_t>(useful, 1, cpu.pool().size()));
}

int64_t even_block_rows(int64_t rows, const LinearKernel& kernel) {
  const int64_t blocks = ceil_div(rows, kernel.rows_per_block);
  return ceil_div(ceil_div(rows, blocks), kernel.rows_per_tile) * kernel.rows_per_tile;
}

void run_linear(const LinearArgs& args, Stream& stream, const LinearKernel& kernel) {
  const PackedLinear& weight = *args.weight;
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  CpuStream& cpu = as_cpu(stream);
  const int workers = useful_workers(group_bytes(weight), rows * weight.k * weight.n, cpu);
  const int64_t block_rows = rows_per_block(rows, 1, weight, kernel, workers);
  share_panels(cpu, workers, ceil_div(rows, block_rows), weight, [&](int64_t block, int64_t begin, int64_t end) {
    kernel.compute(args, {.row_begin = block * block_rows,
                          .row_end = std::min(rows, (block + 1) * block_rows),
                          .panel_begin = begin,
                          .panel_end = end});
  });
}

void run_grouped_linear(const GroupedLinearArgs& args, Stream& stream, const LinearKernel& kernel) {
  const PackedLinear& weight = *args.weight;
  const int64_t rows = args.x.shape[0];
  if (rows == 0) return;
  CpuStream& cpu = as_cpu(stream);
  const int workers =
      useful_workers(weight.groups * group_bytes(weight), rows * weight.groups * weight.k * weight.n, cpu);
  const int64_t block_rows = rows_per_block(rows, weight.groups, weight, kernel, workers);
  const int64_t blocks = ceil_div(rows, block_rows);
  const auto group_of = [](const Tensor& tensor, int64_t group) {
    Tensor view = tensor;  // [T, G, N] to [T, N]
    view.data = tensor.as<float>() + group * tensor.strides[1];
    view.rank = 2;
    view.shape = {tensor.shape[0], tensor.shape[2]};
    view.strides = {tensor.strides[0], 1};
    return view;
  };
  share_panels(cpu, workers, weight.groups * blocks, weight, [&](int64_t item, int64_t begin, int64_t end) {
    const int64_t group = item / blocks;
    const int64_t block = item % blocks;
    kernel.compute({.x = group_of(args.x, group), .weight = &weight, .out = group_of(args.out, group)},
                   {.group = group,
                    .row_begin = block * block_rows,
                    .row_end = std::min(rows, (block + 1) * block_rows),
                    .panel_begin = begin,
                    .panel_end = end});
  });
}

}  // namespace quire::cpu
