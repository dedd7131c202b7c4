// How messages are cut for the kernels in which ranks write into each other's memory, so that what is on its way fits
// into a buffer of the inbox. All ranks cut alike: it depends on shapes alone.
#pragma once

#include <algorithm>
#include <cstdint>

#include "comm/communicator.h"
#include "kernels_cuda/comm/peer_kernels.h"

namespace quire::gpu {

/// Slots begin with a warp's units.
constexpr int64_t kSlotUnits = 32;

/// The units that each rank can send another one if each takes `lines` of the receiver's buffer.
constexpr int64_t units_that_fit(int64_t buffer_lines, int num_ranks, int64_t lines) {
  return buffer_lines / (num_ranks * lines) / kSlotUnits * kSlotUnits;
}

inline bool is_aligned_to_units(const void* memory) {
  return reinterpret_cast<uintptr_t>(memory) % static_cast<uintptr_t>(kUnitBytes) == 0;
}

/// Calls work(chunk). `share_from_bytes`: from where on ranks share the work of summing up; units enough that each rank
/// has some, num_ranks^2, for a rank that has none would not be heard of.
template <typename Work>
void cut_reduce(const AllReduceArgs& args, int num_ranks, int64_t buffer_lines, int64_t share_from_bytes, Work work) {
  const int64_t per_unit = kUnitBytes / dtype_bytes(args.x.dtype);
  const int64_t count = args.x.size(), units = (count + per_unit - 1) / per_unit;
  const int64_t most_at_once = units_that_fit(buffer_lines, num_ranks, kLinesPerUnit);
  // Of a unit of sums. Those that are added are not rounded before, and each takes half a line.
  const int64_t sum_lines = args.add_to ? per_unit / 2 : kLinesPerUnit;
  const int64_t most_of_part = units_that_fit(buffer_lines, num_ranks, kLinesPerUnit + sum_lines);
  for (int64_t done = 0; done < units;) {
    const int64_t left = units - done;
    const bool is_shared = left * kUnitBytes >= share_from_bytes;
    const int64_t now = std::min(left, is_shared ? most_of_part * num_ranks : most_at_once);
    work(ReduceChunk{.x = static_cast<std::byte*>(args.x.data) + done * kUnitBytes,
                     .add_to = args.add_to ? args.add_to.as<float>() + done * per_unit : nullptr,
                     .scale = args.scale,
                     .count = std::min(now * per_unit, count - done * per_unit),
                     .part_units = is_shared ? (now + num_ranks - 1) / num_ranks : 0,
                     .aligned = is_aligned_to_units(args.x.data) && is_aligned_to_units(args.add_to.data)});
    done += now;
  }
}

/// Calls work(chunk).
template <typename Work>
void cut_gather(const AllGatherArgs& args, int num_ranks, int64_t buffer_lines, Work work) {
  constexpr int64_t kPerUnit = kUnitBytes / static_cast<int64_t>(sizeof(float));
  const int64_t rows = args.out.shape[0], columns = args.out.shape[1];
  const int64_t widest = share_of_rank(columns, 0, num_ranks).count;
  const int64_t most = units_that_fit(buffer_lines, num_ranks, kLinesPerUnit) * kPerUnit;
  const int64_t most_columns = std::min(widest, most);
  const int64_t most_rows = most_columns > 0 ? most / most_columns : 0;
  for (int64_t column = 0; column < widest; column += most_columns) {
    for (int64_t row = 0; row < rows; row += most_rows) {
      GatherChunk chunk{.x = args.x.as<const float>() + row * args.x.strides[0] + column,
                        .x_stride = args.x.strides[0],
                        .out = args.out.as<float>() + row * args.out.strides[0],
                        .out_stride = args.out.strides[0],
                        .rows = static_cast<int>(std::min(most_rows, rows - row)),
                        .first = {},
                        .columns = {},
                        .aligned = false};
      int64_t offsets = chunk.x_stride | chunk.out_stride;
      for (int r = 0; r < num_ranks; ++r) {
        const Share share = share_of_rank(columns, r, num_ranks);
        chunk.first[r] = static_cast<int>(share.first + column);
        chunk.columns[r] = static_cast<int>(std::clamp<int64_t>(share.count - column, 0, most_columns));
        if (chunk.columns[r] > 0) offsets |= chunk.first[r] | chunk.columns[r];
      }
      chunk.aligned = offsets % kPerUnit == 0 && is_aligned_to_units(chunk.x) && is_aligned_to_units(chunk.out);
      work(chunk);
    }
  }
}

}  // namespace quire::gpu
