// The cells of 16 keys that a warp of decode.cu has in flight: which keys they hold, where those come from, and the
// ring in shared memory that they are copied to, far enough ahead that memory is the limit.
#pragma once

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/common/divisor.cuh"

namespace quire::gpu {

template <int kDim>
struct DecodeShape {
  /// Of a block, where shared memory has room for the rings of so many.
  static constexpr int kMaxWarps = kDim > 128 ? 4 : 8;
  /// Cells of a warp. More fill shared memory, so that the next kernel cannot start early, and gain nothing.
  static constexpr int kStages = kDim <= 64 ? 4 : kDim <= 96 ? 3 : 2;
  static constexpr int kRingBytes = kStages * Cell<kDim>::kBytes;
  /// A part of a pair: for 16 rows the largest score (times log2 e), the sum, then the values.
  static constexpr int kPartFloats = kPartRows * (kDim + 2);
  static_assert(kPartFloats * 4 <= kRingBytes);
};

/// What numbers of cells, pairs and keys are divided by in every launch, on the way to the first key.
struct DecodeDivisors {
  Divisor blocks, warps;
  Divisor tiles;  ///< of 16 query heads, of a kv head
  Divisor block_size;
};

/// Which keys of a cell come from where.
struct CellSource {
  const std::byte* head;    ///< the kv head's part of the page; null: none of these keys is wanted
  const std::byte* second;  ///< of the second half's, where pages have 8 tokens
  int first;                ///< token of the page
  int old;                  ///< whether all was written before this step
};

__device__ inline CellSource source_of(const KeySchedule<kCellKeys>& schedule, const AttentionProblem& problem,
                                       const UnitPlace& place, const DecodeDivisors& by) {
  const int first_key = schedule.first_key(place.sequence);
  const int key = (first_key / kCellKeys + place.unit) * kCellKeys;
  const int32_t* const table = problem.block_tables + schedule.tables[place.sequence];
  const std::byte* const heads = problem.pages + place.pair / by.tiles * problem.head_bytes;
  const Divisor& block_size = by.block_size;
  const int old = key + kCellKeys < schedule.contexts[place.sequence];
  if (block_size >= kCellKeys)
    return {heads + table[key / block_size] * problem.block_bytes, nullptr, key % block_size, old};
  const auto half = [&](int from) -> const std::byte* {
    if (from + block_size <= first_key || from >= schedule.contexts[place.sequence]) return nullptr;
    return heads + table[from / block_size] * problem.block_bytes;
  };
  return {half(key), half(key + block_size), 0, old};
}

__device__ inline const std::byte* pointer_of_lane(const std::byte* pointer, int lane) {
  return reinterpret_cast<const std::byte*>(
      __shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(pointer), lane));
}

/// The cells that one warp has in flight.
template <int kDim>
class CellRing {
 public:
  static constexpr int kStages = DecodeShape<kDim>::kStages;

  /// `own`: of the warp's cells, the place of that with the lane's number, or of the last one. `all_old`: what this
  /// step's own token has in a cell may be anything.
  __device__ CellRing(std::byte* memory, uint32_t barriers, const KeySchedule<kCellKeys>& schedule,
                      const AttentionProblem& problem, const DecodeDivisors& by, int begin, int count,
                      const UnitPlace& own, bool all_old)
      : memory_(memory),
        barriers_(barriers),
        schedule_(schedule),
        problem_(problem),
        by_(by),
        begin_(begin),
        count_(count),
        policy_(read_once_policy()),
        now_(source_of(schedule, problem, own, by)) {
    if constexpr (kBulkCopies) {
      while (asked_ < min(kStages, count_) && (all_old || __shfl_sync(0xffffffffu, now_.old, asked_) != 0)) {
        copy<true>(asked_++);
      }
    }
    next_ = look_up(32);
  }

  /// Once the kernel before has ended: ask for what it may have written.
  __device__ void fill() {
    for (; asked_ < kStages; ++asked_) copy<true>(asked_);
  }

  /// The i-th cell, once it is there.
  __device__ uint32_t wait(int i) const {
    if constexpr (kBulkCopies) {
      barrier_wait(barriers_ + i % kStages * 8, i / kStages & 1);
    } else {
      async_copy_wait<kStages - 1>();
      __syncwarp();
    }
    return shared_address(cell(i));
  }

  /// Where the i-th cell is.
  __device__ std::byte* cell(int i) const { return memory_ + i % kStages * Cell<kDim>::kBytes; }

  /// The i-th cell is no longer needed.
  __device__ void release(int i) {
    __syncwarp();
    copy<false>(i + kStages);
  }

 private:
  __device__ CellSource look_up(int first) const {
    const int i = first + threadIdx.x % 32;
    if (i >= count_) return {nullptr, nullptr, 0, 0};
    return source_of(schedule_, problem_, place_of(schedule_, begin_ + i), by_);
  }

  /// `kFirst`: it is one of the ring's first.
  template <bool kFirst>
  __device__ void copy(int i) {
    static_assert(kStages <= 32);
    if (i < count_) {
      if (!kFirst && i % 32 == 0) {
        now_ = next_;
        next_ = look_up(i + 32);
      }
      const std::byte* const head = pointer_of_lane(now_.head, i % 32);
      const int first = __shfl_sync(0xffffffffu, now_.first, i % 32);
      std::byte* const cell = this->cell(i);
      const uint32_t barrier = barriers_ + i % kStages * 8;
      const int block_size = problem_.layout.block_size;
      if (block_size >= kCellKeys) {
        expect(barrier, Cell<kDim>::kBytes);
        copy_to_cell<kDim>(cell, 0, head, block_size, first, kCellKeys, barrier, policy_);
      } else {
        const std::byte* const second = pointer_of_lane(now_.second, i % 32);
        expect(barrier, ((head != nullptr) + (second != nullptr)) * (Cell<kDim>::kBytes / 2));
        if (head != nullptr) copy_to_cell<kDim>(cell, 0, head, block_size, 0, block_size, barrier, policy_);
        if (second != nullptr)
          copy_to_cell<kDim>(cell, block_size, second, block_size, 0, block_size, barrier, policy_);
      }
    }
    if constexpr (!kBulkCopies) async_copy_commit();
  }

  __device__ static void expect(uint32_t barrier, int bytes) {
    if constexpr (kBulkCopies) {
      if (threadIdx.x % 32 == 0) barrier_expect(barrier, static_cast<unsigned>(bytes));
      __syncwarp();
    }
  }

  std::byte* memory_;
  uint32_t barriers_;
  const KeySchedule<kCellKeys>& schedule_;
  const AttentionProblem& problem_;
  const DecodeDivisors& by_;
  int begin_, count_;
  int asked_ = 0;
  uint64_t policy_;
  CellSource now_, next_;
};

}  // namespace quire::gpu
