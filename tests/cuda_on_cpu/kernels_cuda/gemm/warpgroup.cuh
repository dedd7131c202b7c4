// In the place of kernels_cuda/gemm/warpgroup.cuh, which says what these do. Products and copies are done at once or as
// late as may be (gpu_on_cpu/block.h), so that who does not wait for them reads something else.
#pragma once

#include <cuda.h>

#include <cstdint>
#include <cstring>

#include "kernels_cuda/common/async_copy.cuh"
#include "kernels_cuda/common/bulk_copy.cuh"
#include "kernels_cuda/common/mma.cuh"

namespace quire::gpu {

using Barrier = uint64_t;

inline void init_barrier(Barrier* barrier, int arrivals) {
  barrier_init(shared_address(barrier), static_cast<unsigned>(arrivals));
}
inline void publish_barriers() {}
inline void arrive(Barrier* barrier) {
  barrier_arrive(shared_address(barrier));
}
inline void arrive_and_expect(Barrier* barrier, int bytes) {
  barrier_expect(shared_address(barrier), static_cast<unsigned>(bytes));
}
inline void wait(Barrier* barrier, int parity) {
  barrier_wait(shared_address(barrier), static_cast<unsigned>(parity));
}

// Clusters.

inline int rank_in_cluster() {
  return static_cast<int>(gpu_on_cpu::number_in_cluster());
}
inline int blocks_in_cluster() {
  return static_cast<int>(gpu_on_cpu::blocks_in_cluster());
}
inline uint32_t address_in(const void* shared, int rank) {
  return shared_address_in(shared_address(shared), static_cast<uint32_t>(rank));
}
inline void arrive_in(Barrier* barrier, int rank) {
  barrier_arrive(address_in(barrier, rank));
}
inline void release_to(Barrier* barrier, int rank) {
  arrive_in(barrier, rank);
}
inline void wait_for_cluster(Barrier* barrier, int parity) {
  wait(barrier, parity);
}
inline void cluster_barrier() {
  gpu_on_cpu::sync_cluster();
}
inline float4 load_from_cluster(uint32_t address) {
  return *reinterpret_cast<const float4*>(shared_pointer(address));
}

// Copies of boxes.

/// Where the hardware puts what has this address but for the swizzle of rows of 128 bytes.
inline uint32_t swizzled(uint32_t address) {
  return address ^ (address >> 7 & 7) << 4;
}

/// To `address`, rows of 128 bytes; zeros where the tensor ends.
inline void bring_box(const CUtensorMap& map, uint32_t address, const int (&begin)[5]) {
  const uint32_t* const box = map.box;
  uint32_t row = 0;
  for (uint32_t v = 0; v < box[4]; ++v) {
    for (uint32_t u = 0; u < box[3]; ++u) {
      for (uint32_t z = 0; z < box[2]; ++z) {
        for (uint32_t y = 0; y < box[1]; ++y, ++row) {
          const int64_t at[4] = {int64_t{begin[1]} + y, int64_t{begin[2]} + z, int64_t{begin[3]} + u,
                                 int64_t{begin[4]} + v};
          bool inside = true;
          const std::byte* from = map.memory;
          for (int i = 0; i < 4; ++i) {
            inside = inside && at[i] >= 0 && at[i] < static_cast<int64_t>(map.sizes[i + 1]);
            from += at[i] * static_cast<int64_t>(map.strides[i + 1]);
          }
          for (uint32_t x = 0; x < box[0]; ++x) {
            const int64_t column = int64_t{begin[0]} + x;
            uint16_t element = 0;
            if (inside && column >= 0 && column < static_cast<int64_t>(map.sizes[0])) {
              std::memcpy(&element, from + column * 2, 2);
            }
            std::memcpy(shared_pointer(swizzled(address + row * 128 + x * 2)), &element, 2);
          }
        }
      }
    }
  }
}

/// To all blocks that `ranks` has bits of, or to this one alone.
inline void bring_boxes(uint16_t ranks, void* shared, const CUtensorMap& map, Barrier* barrier, const int (&begin)[5]) {
  const uint32_t address = shared_address(shared), told = shared_address(barrier);
  if (address % 1024 != 0) gpu_on_cpu::fail("copies a box to a place between");
  int64_t bytes = 2;
  for (const uint32_t side : map.box) bytes *= side;
  const CUtensorMap copy = map;
  const std::array<int, 5> first = std::to_array(begin);
  const auto bring = [=](uint32_t to, uint32_t tell) {
    gpu_on_cpu::do_sometime([=] {
      bring_box(copy, to, {first[0], first[1], first[2], first[3], first[4]});
      barrier_change(tell, 0, -bytes);
    });
  };
  if (ranks == 0) return bring(address, told);
  for (uint32_t rank = 0; rank < 16; ++rank) {
    if ((ranks >> rank & 1) != 0) bring(shared_address_in(address, rank), shared_address_in(told, rank));
  }
}

inline void copy_box(void* shared, const CUtensorMap& map, Barrier* barrier, int x, int y) {
  if (map.rank != 2) gpu_on_cpu::fail("copies a box of another tensor's rank");
  bring_boxes(0, shared, map, barrier, {x, y, 0, 0, 0});
}
inline void copy_box(void* shared, const CUtensorMap& map, Barrier* barrier, int x, int y, int z, int u, int v) {
  if (map.rank != 5) gpu_on_cpu::fail("copies a box of another tensor's rank");
  bring_boxes(0, shared, map, barrier, {x, y, z, u, v});
}
inline void copy_box(void* shared, const CUtensorMap& map, Barrier* barrier, int x, int y, uint64_t) {
  copy_box(shared, map, barrier, x, y);
}
inline void copy_box(void* shared, const CUtensorMap& map, Barrier* barrier, int x, int y, int z, int u, int v,
                     uint64_t) {
  copy_box(shared, map, barrier, x, y, z, u, v);
}
inline void copy_box_to(uint16_t ranks, void* shared, const CUtensorMap& map, Barrier* barrier, int x, int y) {
  if (map.rank != 2) gpu_on_cpu::fail("copies a box of another tensor's rank");
  bring_boxes(ranks, shared, map, barrier, {x, y, 0, 0, 0});
}
inline void prefetch_map(const CUtensorMap&) {}

// Products.

template <int kRegisters>
void give_registers() {}
template <int kRegisters>
void take_registers() {}

template <int kCount>
void hold(float (&)[kCount]) {}

inline void begin_products() {}
inline void commit_products() {
  gpu_on_cpu::end_group();
}
template <int kPending>
void wait_products() {
  gpu_on_cpu::wait_for_groups(kPending);
  // Each lane does its own part of a product, while a warp waits for all.
  gpu_on_cpu::sync_lanes(32);
}

/// An operand in shared memory, by its description: eight rows of 128 bytes, swizzled, then the next eight.
template <typename T>
class SharedOperand {
 public:
  explicit SharedOperand(uint64_t description)
      : address_(static_cast<uint32_t>(description & 0x3fff) * 16),
        column_bytes_(static_cast<uint32_t>(description >> 16 & 0x3fff) * 16),
        row_bytes_(static_cast<uint32_t>(description >> 32 & 0x3fff) * 16) {
    if (description >> 62 != 1) gpu_on_cpu::fail("describes another swizzle");
  }
  /// Of one row, 16 along which is summed: rows of them, or, transposed, columns.
  Sixteen<T> row(int row, bool transposed) const {
    T numbers[16];
    for (int k = 0; k < 16; ++k) {
      const int outer = transposed ? k : row, inner = transposed ? row : k;
      const uint32_t address = address_ + static_cast<uint32_t>(inner) / 64 * column_bytes_ +
                               static_cast<uint32_t>(outer) / 8 * row_bytes_ +
                               static_cast<uint32_t>(outer % 8 * 128 + inner % 64 * 2);
      std::memcpy(&numbers[k], memory_ + swizzled(address) - kDynamicBegin, sizeof(T));
    }
    uint32_t pairs[8];
    std::memcpy(pairs, numbers, sizeof(pairs));
    return Sixteen<T>(pairs);
  }

 private:
  const std::byte* memory_ = gpu_on_cpu::dynamic_memory();
  uint32_t address_, column_bytes_, row_bytes_;
};

/// This thread's part of a product: d[4 j + i] (+)= two rows of a by kColumns columns of b.
template <int kColumns, typename T>
void multiply_part(float* d, const Sixteen<T> (&rows)[2], const SharedOperand<T>& b, bool transposed, int lane,
                   bool adds) {
  for (int j = 0; j < kColumns / 8; ++j) {
    for (int side = 0; side < 2; ++side) {
      const Sixteen<T> column = b.row(j * 8 + lane % 4 * 2 + side, transposed);
      for (int half = 0; half < 2; ++half) {
        float& out = d[4 * j + 2 * half + side];
        out = (adds ? out : 0.0f) + rows[half].dot(column);
      }
    }
  }
}

template <typename T, int kColumns>
struct WarpgroupProduct {
  template <bool kAdds = true>
  static void run(float (&d)[kColumns / 2], uint64_t a, uint64_t b) {
    float* const out = d;
    const int thread = gpu_on_cpu::thread_number() % 128, lane = thread % 32, row = thread / 32 * 16 + lane / 4;
    gpu_on_cpu::copy_sometime([=] {
      const SharedOperand<T> left(a), right(b);
      multiply_part<kColumns>(out, {left.row(row, false), left.row(row + 8, false)}, right, false, lane, kAdds);
    });
  }
};

/// `values`: of this lane; stored by those whose addresses are asked for.
template <int kCount>
void store_matrices_transposed(const uint32_t (&values)[kCount], uint32_t column_address) {
  static_assert(kCount == 2 || kCount == 4);
  gpu_on_cpu::Brought own{};
  for (int i = 0; i < kCount; ++i) own[i / 2] |= uint64_t{values[i]} << i % 2 * 32;
  const auto& lanes = gpu_on_cpu::bring_together(own);
  const int lane = gpu_on_cpu::thread_number() % 32, matrix = lane / 8, column = lane % 8;
  if (matrix >= kCount) return;
  if (column_address % 16 != 0) gpu_on_cpu::fail("stores a column of a matrix to a place between");
  uint16_t rows[8];
  for (int row = 0; row < 8; ++row) {
    rows[row] = static_cast<uint16_t>(word_of(lanes[row * 4 + column / 2], matrix) >> column % 2 * 16);
  }
  std::memcpy(shared_pointer(column_address), rows, sizeof(rows));
}

}  // namespace quire::gpu
