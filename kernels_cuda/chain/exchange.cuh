// How links follow each other. What a link computes goes to memory, and once more to the exchange, in entries of 8
// bytes: a float32 number or two of 16 bits, and the mark of the link and the launch. Whoever reads an entry sees by
// its mark whether it has been written, so that nobody waits for anybody else's writes to have arrived everywhere: a
// fence costs microseconds while weights stream in. Each tensor has its own entries, which the next link that writes it
// overwrites. By then all who needed them have read them: every link reads all that the one before has computed, so
// what a link writes depends on every part of all links before it, and blocks that have no part in a link do not read.
#pragma once

#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/chain/room.cuh"
#include "kernels_cuda/common/instructions.cuh"
#include "kernels_cuda/gemm/row_product.cuh"

namespace quire::gpu {

/// The entries that a thread reads, and their mark.
struct Entries {
  const ulonglong2* at = nullptr;  ///< null: what is wanted lies in memory
  uint32_t mark = 0;

  __device__ bool marked(ulonglong2 pair) const {
    return static_cast<uint32_t>(pair.x >> 32) == mark && static_cast<uint32_t>(pair.y >> 32) == mark;
  }

  /// values[i] := 16 bytes: what the four entries from first_of(i) on hold, a multiple of two, or what lies in `memory`
  /// there, if there are any (`has(i)`).
  template <int kCount, typename First, typename Has>
  __device__ void get(uint4 (&values)[kCount], const void* memory, First&& first_of, Has&& has) const {
    bool complete = at == nullptr;
    if (complete) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (has(i)) values[i] = load_past_l1(static_cast<const uint4*>(memory) + first_of(i) / 4);
      }
    }
    while (!complete) {
      ulonglong2 raw[kCount][2];
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (!has(i)) continue;
        raw[i][0] = load_relaxed(at + first_of(i) / 2);
        raw[i][1] = load_relaxed(at + first_of(i) / 2 + 1);
      }
      complete = true;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (!has(i)) continue;
        complete &= marked(raw[i][0]) && marked(raw[i][1]);
        values[i] = {static_cast<uint32_t>(raw[i][0].x), static_cast<uint32_t>(raw[i][0].y),
                     static_cast<uint32_t>(raw[i][1].x), static_cast<uint32_t>(raw[i][1].y)};
      }
      if (!complete) pause_between_polls();
    }
  }

  /// By a warp, before all threads ask for all `count` entries: wait until some of them are there. That is most of the
  /// waiting, and leaves the memory's time to others.
  __device__ void look_ahead(int count) const {
    const int entry = static_cast<int>(int64_t{count} * (threadIdx.x % 32) / 32) & ~1;
    while (!marked(load_relaxed(at + entry / 2))) pause_between_polls();
  }
};

/// What is said through the exchange.
class Exchange {
 public:
  __device__ explicit Exchange(const Program& program) : program_(program), launch_(*program.launches) {}

  /// No other link or launch has it, as far as 2^24 launches go.
  __device__ uint32_t mark_of(int link) const { return (launch_ << 8) + static_cast<uint32_t>(link) + 1; }

  __device__ Entries entries(const Source& source) const {
    if (source.link < 0) return {};
    return {reinterpret_cast<const ulonglong2*>(program_.exchange + source.entry), mark_of(source.link)};
  }

  /// Entry `i` of what link number `link` writes.
  __device__ void put(const Link& written, int link, int i, uint32_t value) const {
    const uint64_t entry = uint64_t{mark_of(link)} << 32 | value;
    store_relaxed(program_.exchange + written.out + i, entry);
  }

  /// The block that comes last leaves the counters as they were found.
  __device__ void end() const {
    compute_barrier();
    if (threadIdx.x != 0) return;
    if (count_arrival(program_.ended) + 1 < gridDim.x) return;
    for (int i = 0; i < program_.num_links; ++i) program_.claims[i] = 0;
    *program_.ended = 0;
    *program_.launches = launch_ + 1;
  }

 private:
  const Program& program_;
  const uint32_t launch_;
};

/// A float32 row for RowNorm.
struct ExchangedRow {
  Entries entries;
  const float* x;
  int k;
  template <int kCount>
  __device__ void operator()(float4 (&values)[kCount], const int (&columns)[kCount]) const {
    uint4 bits[kCount];
    entries.get(bits, x, [&](int i) { return columns[i]; }, [&](int i) { return columns[i] < k; });
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] = columns[i] < k ? reinterpret_cast<const float4&>(bits[i]) : float4{};
    }
  }
};

/// A row of 16-bit numbers into shared memory.
__device__ inline void fetch_exchanged_row(const Entries& entries, const RowProduct& product, std::byte* to) {
  constexpr int kHeld = 4;
  const int k = product.k;
  for (int first = thread_anew() * 8; first < k; first += kHeld * kRowThreads * 8) {
    uint4 held[kHeld];
    const auto column_of = [&](int i) { return first + i * kRowThreads * 8; };
    const auto has = [&](int i) { return column_of(i) < k; };
    entries.get(held, product.x, [&](int i) { return column_of(i) / 2; }, has);
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      if (has(i)) *reinterpret_cast<uint4*>(to + column_of(i) * 2) = held[i];
    }
  }
}

}  // namespace quire::gpu
