// Where a row is cut: the tokens that top_k, top_p and min_p leave, found among the groups that can hold them and
// sorted in shared memory, or over the whole row where that is too small. All sums have one order, given by ids.
#pragma once

#include "kernels_cuda/portable/sample_view.cuh"

namespace quire::gpu {

/// Sort the first `count` keys, the largest first.
__device__ inline void sort_keys(ChooseMemory& memory, int count) {
  int size = 2;
  while (size < count) size *= 2;
  for (int i = count + static_cast<int>(threadIdx.x); i < size; i += kChooseThreads) memory.keys[i] = 0;
  __syncthreads();
  // What one warp can do needs no barriers of the block.
  const bool one_warp = size <= 64;
  for (int run = 2; run <= size; run *= 2) {
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = threadIdx.x; i < size / 2; i += kChooseThreads) {
        const int low = 2 * i - (i & (step - 1));
        const TokenKey a = memory.keys[low];
        const TokenKey b = memory.keys[low + step];
        const bool falling = (low & run) == 0;
        if ((a < b) == falling) {
          memory.keys[low] = b;
          memory.keys[low + step] = a;
        }
      }
      if (one_warp) {
        sync_warp();
      } else {
        __syncthreads();
      }
    }
  }
  __syncthreads();
}

/// Call visit(id, logit) for all logits of the groups whose best is wanted(); a warp takes groups in a fixed order,
/// four at once.
template <typename Wanted, typename Visit>
__device__ inline void visit_groups(const RowView& view, Wanted wanted, Visit visit) {
  constexpr int kAtOnce = 4;
  const int lane = threadIdx.x % 32;
  const int num_groups = group_count(view.vocabulary);
  for (int first = static_cast<int>(threadIdx.x) / 32 * 32; first < num_groups; first += kChooseThreads) {
    const int mine = first + lane;
    uint32_t pending = ballot(mine < num_groups && wanted(view.group_best[mine]));
    while (pending != 0) {
      int id[kAtOnce];
      float4 x[kAtOnce];
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        id[u] = pending != 0 ? (first + lowest_lane(pending)) * kSampleGroup + lane * 4 : view.vocabulary;
        pending &= pending - 1;
      }
      if (view.vectors) {
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          x[u] = *reinterpret_cast<const float4*>(view.logits + (id[u] < view.vocabulary ? id[u] : 0));
        }
      } else {
#pragma unroll
        for (int u = 0; u < kAtOnce; ++u) {
          const auto load = [&](int i) { return id[u] + i < view.vocabulary ? view.logits[id[u] + i] : 0.0f; };
          x[u] = make_float4(load(0), load(1), load(2), load(3));
        }
      }
#pragma unroll
      for (int u = 0; u < kAtOnce; ++u) {
        if (id[u] < view.vocabulary) visit(id[u], x[u].x);
        if (id[u] + 1 < view.vocabulary) visit(id[u] + 1, x[u].y);
        if (id[u] + 2 < view.vocabulary) visit(id[u] + 2, x[u].z);
        if (id[u] + 3 < view.vocabulary) visit(id[u] + 3, x[u].w);
      }
    }
  }
}

/// Put the keys of all logits that are enough() into memory.keys, in no order. Returns how many there are; above
/// kCapacity, that there are too many.
template <typename Enough>
__device__ inline int collect(const RowView& view, ChooseMemory& memory, Enough enough) {
  __syncthreads();
  if (threadIdx.x == 0) memory.num_keys = 0;
  __syncthreads();
  const volatile int& count = memory.num_keys;
  visit_groups(
      view, [&](uint32_t image) { return enough(from_image(image)) && count <= kCapacity; },
      [&](int id, float x) {
        if (!enough(x)) return;
        const int place = atomicAdd(&memory.num_keys, 1);
        if (place < kCapacity) memory.keys[place] = key_of(image_of(x), static_cast<uint32_t>(id));
      });
  __syncthreads();
  return memory.num_keys;
}

/// Collect the best `wanted` tokens and some more: so many groups have one that is as good as the bound. Returns how
/// many; above kCapacity if that found too many.
__device__ inline int collect_best(const RowView& view, ChooseMemory& memory, int wanted) {
  const int num_groups = group_count(view.vocabulary);
  // Few enough to be looked at whole.
  if (view.vocabulary <= kMostInGroups) return collect(view, memory, [](float) { return true; });
  if (wanted > kMostInGroups || wanted > num_groups) return kCapacity + 1;
  uint32_t worst = 0xffffffffu;
  for (int i = threadIdx.x; i < num_groups; i += kChooseThreads) {
    const uint32_t image = view.group_best[i];
    if (from_image(image) > minus_infinity()) worst = min(worst, image);
  }
  worst = ~static_cast<uint32_t>(block_largest(~worst, memory));
  LogitBins bins;
  bins.top = view.best;
  bins.last = kGroupBins - 1;
  bins.per_unit = static_cast<float>(bins.last) / fmaxf(view.best - from_image(worst), 1e-30f);
  for (int i = threadIdx.x; i < kGroupBins; i += kChooseThreads) memory.bins[i] = 0;
  reset_places(memory);
  for (int i = threadIdx.x; i < num_groups; i += kChooseThreads) {
    atomicAdd(&memory.bins[bins.of(from_image(view.group_best[i]))], 1u);
  }
  __syncthreads();
  constexpr int kPerThread = kGroupBins / kChooseThreads;
  int counts[kPerThread];
  int sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) sum += counts[i] = static_cast<int>(memory.bins[threadIdx.x * kPerThread + i]);
  int through = static_cast<int>(block_sum_before(sum, memory));
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    through += counts[i];
    if (through >= wanted) atomicMin(&memory.first, static_cast<int>(threadIdx.x) * kPerThread + i);
  }
  __syncthreads();
  const int bound = memory.first;
  return collect(view, memory, [&](float x) { return bins.of(x) <= bound; });
}

/// What the best tokens must reach together: so many, or so much weight.
struct Goal {
  bool weight;
  double target;
};

/// First place in the sorted keys [0, count) through which, with `above` before them, the goal is reached; count - 1 if
/// none.
__device__ inline int place_of_goal(const RowView& view, ChooseMemory& memory, int count, const Goal& goal,
                                    double above) {
  constexpr int kPerThread = kCapacity / kChooseThreads;
  const int per_thread = (count + kChooseThreads - 1) / kChooseThreads;
  const int first = static_cast<int>(threadIdx.x) * per_thread;
  reset_places(memory);
  double worth[kPerThread];
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    worth[i] = 0.0;
    if (i < per_thread && first + i < count) {
      worth[i] = goal.weight ? double{view.weight(logit_of(memory.keys[first + i]))} : 1.0;
    }
    sum += worth[i];
  }
  double through = above + block_sum_before(sum, memory);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    through += worth[i];
    if (i < per_thread && first + i < count && through >= goal.target) atomicMin(&memory.first, first + i);
  }
  __syncthreads();
  const int place = min(memory.first, count - 1);
  __syncthreads();
  return place;
}

/// The worst of the fewest best keys that reach the goal, of those from `floor` on; all if they do not.
///
/// Each pass over the row counts keys in 8192 bins of a window that holds the border, and sums what lies above the
/// window exactly. A bin's weight is known within the weights of its ends, so that bins are counted and never weighed:
/// integer sums do not depend on their order. The window shrinks to the bins between which the border must lie, until
/// its keys can be sorted. The first window is the row, in bins of equal weight ratio; the later ones divide keys, ids
/// of equal logits included. Two passes as a rule.
__device__ inline TokenKey border(const RowView& view, ChooseMemory& memory, const Goal& goal, TokenKey floor) {
  // Rounding of weights at the ends of bins.
  const double slack = goal.weight ? 1e-5 : 0.0;
  LogitBins row_bins;
  row_bins.top = view.best;
  row_bins.per_unit = 256.0f * view.scale;
  row_bins.last = kBins - 1;
  TokenKey low = max(floor, uint64_t{image_of(minus_infinity())} << 32);
  TokenKey high = key_of(image_of(view.best), 0);
  int shift = 0;
  for (int round = 0;; ++round) {
    const bool by_logit = round == 0;
    __syncthreads();
    for (int i = threadIdx.x; i < kBins; i += kChooseThreads) memory.bins[i] = 0;
    reset_places(memory);
    double sum = 0.0;
    visit_groups(
        view, [&](uint32_t image) { return key_of(image, 0) >= low; },
        [&](int id, float x) {
          const TokenKey key = key_of(image_of(x), static_cast<uint32_t>(id));
          if (key < low) return;
          if (key > high) {
            sum += goal.weight ? view.weight(x) : 1.0f;
            return;
          }
          const int bin = by_logit ? row_bins.of(x) : static_cast<int>((high - key) >> shift);
          // Many of a kind would queue for their bin.
          const uint32_t lanes = active_lanes();
          if (!all_alike(lanes, bin)) {
            atomicAdd(&memory.bins[bin], 1u);
          } else if (static_cast<int>(threadIdx.x % 32) == lowest_lane(lanes)) {
            atomicAdd(&memory.bins[bin], static_cast<unsigned>(__popc(lanes)));
          }
        });
    const double above = block_total(sum, memory);

    // Least and largest weight of this thread's bins, then where the sums of each pass the target.
    constexpr int kPerThread = kBins / kChooseThreads;
    const int first_bin = static_cast<int>(threadIdx.x) * kPerThread;
    const auto weight_at = [&](int bin) -> double {
      if (!goal.weight) return 1.0;
      if (by_logit) return bin > row_bins.last ? 0.0 : expf(static_cast<float>(bin) * (-1.0f / 256.0f));
      const TokenKey down = static_cast<TokenKey>(bin) << shift;
      return view.weight(logit_of(down > high - low ? low : high - down));
    };
    double least = 0.0;
    double most = 0.0;
    for (int i = 0; i < kPerThread; ++i) {
      const double count = memory.bins[first_bin + i];
      if (count == 0.0) continue;
      least += count * weight_at(first_bin + i + 1);
      most += count * weight_at(first_bin + i);
      atomicMax(&memory.last, first_bin + i);
    }
    least = above + (1.0 - slack) * block_sum_before(least, memory);
    most = above + (1.0 + slack) * block_sum_before(most, memory);
    for (int i = 0; i < kPerThread; ++i) {
      const double count = memory.bins[first_bin + i];
      if (count == 0.0) continue;
      least += (1.0 - slack) * count * weight_at(first_bin + i + 1);
      most += (1.0 + slack) * count * weight_at(first_bin + i);
      if (most >= goal.target) atomicMin(&memory.first, first_bin + i);
      if (least >= goal.target) atomicMin(&memory.other, first_bin + i);
    }
    __syncthreads();
    const int from_bin = min(memory.first, memory.last);
    int to_bin = min(memory.other, memory.last);
    // Differences beneath rounding are not chased for ever.
    constexpr int kManyRounds = 6;
    if (round >= kManyRounds) to_bin = from_bin;
    double held = 0.0;
    for (int i = 0; i < kPerThread; ++i) {
      if (first_bin + i >= from_bin && first_bin + i <= to_bin) held += memory.bins[first_bin + i];
    }
    held = block_total(held, memory);

    TokenKey next_low = low;
    TokenKey next_high = high;
    if (by_logit) {
      // The images at which the bin's number changes.
      const auto first_image = [&](int bin) {
        uint32_t under = image_of(minus_infinity());  // its bin is the last one
        uint32_t at = image_of(view.best);
        while (at - under > 1) {
          const uint32_t middle = under + (at - under) / 2;
          (row_bins.of(from_image(middle)) <= bin ? at : under) = middle;
        }
        return at;
      };
      if (to_bin < row_bins.last) next_low = max(low, uint64_t{first_image(to_bin)} << 32);
      if (from_bin > 0) next_high = (uint64_t{first_image(from_bin - 1)} << 32) - 1;
    } else {
      const TokenKey down = (static_cast<TokenKey>(to_bin) + 1) << shift;
      if (down <= high - low) next_low = high - down + 1;
      next_high = high - (static_cast<TokenKey>(from_bin) << shift);
    }
    low = next_low;
    high = next_high;
    if (held <= kCapacity) break;
    const int bits = 64 - __clzll(static_cast<long long>(high - low));
    constexpr int kBinBits = 13;
    shift = max(0, bits - kBinBits);
  }

  // The window fits: sum above it once more, and sort it.
  __syncthreads();
  if (threadIdx.x == 0) memory.num_keys = 0;
  __syncthreads();
  double sum = 0.0;
  visit_groups(
      view, [&](uint32_t image) { return key_of(image, 0) >= low; },
      [&](int id, float x) {
        const TokenKey key = key_of(image_of(x), static_cast<uint32_t>(id));
        if (key < low) return;
        if (key > high) {
          sum += goal.weight ? view.weight(x) : 1.0f;
          return;
        }
        const int place = atomicAdd(&memory.num_keys, 1);
        if (place < kCapacity) memory.keys[place] = key;
      });
  const double above = block_total(sum, memory);
  const int count = min(memory.num_keys, kCapacity);
  if (count == 0) return low;
  sort_keys(memory, count);
  const TokenKey worst = memory.keys[place_of_goal(view, memory, count, goal, above)];
  __syncthreads();
  return worst;
}

}  // namespace quire::gpu
