#include "backend/cpu/gemm/pieces.h"

#include <algorithm>

#include "backend/cpu/gemm/near_rows.h"
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
  const int64_t blocks = ceil_div(rows, block_rows);
  if (!worth_moving(args.x.strides[0], std::min(rows, block_rows), weight, kernel)) {
    share_panels(cpu, workers, blocks, weight, [&](int64_t block, int64_t begin, int64_t end, int) {
      kernel.compute(args, {.row_begin = block * block_rows,
                            .row_end = std::min(rows, (block + 1) * block_rows),
                            .panel_begin = begin,
                            .panel_end = end});
    });
    return;
  }
  cpu.reserve_scratch(NearRows::bytes(block_rows, weight.k));
  const NearRows near(cpu, workers, 0, weight.k);
  share_panels(cpu, workers, blocks, weight, [&](int64_t block, int64_t begin, int64_t end, int worker) {
    const int64_t first = block * block_rows;
    const int64_t count = std::min(rows - first, block_rows);
    const float* const x = args.x.as<const float>() + first * args.x.strides[0];
    LinearArgs part = args;
    part.x = near.get(worker, block, count, [&](int64_t row) { return x + row * args.x.strides[0]; });
    part.out = args.out.rows(first, count);
    if (args.residual) part.residual = args.residual.rows(first, count);
    kernel.compute(part, {.row_begin = 0, .row_end = count, .panel_begin = begin, .panel_end = end});
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
  // [count, N] of a group, from [T, G, N].
  const auto part_of = [](const Tensor& tensor, int64_t group, int64_t first, int64_t count) {
    Tensor view(tensor.as<float>() + first * tensor.strides[0] + group * tensor.strides[1], DType::kFloat32,
                {count, tensor.shape[2]});
    view.strides[0] = tensor.strides[0];
    return view;
  };
  const bool moved = worth_moving(args.x.strides[0], std::min(rows, block_rows), weight, kernel);
  cpu.reserve_scratch(NearRows::bytes(moved ? block_rows : 0, weight.k));
  const NearRows near(cpu, workers, 0, weight.k);
  share_panels(cpu, workers, weight.groups * blocks, weight, [&](int64_t item, int64_t begin, int64_t end, int worker) {
    const int64_t group = item / blocks;
    const int64_t first = item % blocks * block_rows;
    const int64_t count = std::min(rows - first, block_rows);
    Tensor x = part_of(args.x, group, first, count);
    if (moved) x = near.get(worker, item, count, [x](int64_t row) { return x.rows(row, 1).data; });
    kernel.compute({.x = x, .weight = &weight, .out = part_of(args.out, group, first, count)},
                   {.group = group, .row_begin = 0, .row_end = count, .panel_begin = begin, .panel_end = end});
  });
}

}  // namespace quire::cpu
