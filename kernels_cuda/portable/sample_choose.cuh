// Second kernel of sampling: one block per row, from notes to token and candidates. Most rows need the notes (8 KiB)
// and one span; rows that cut or report read the groups that can hold what they look for, put it into shared memory and
// sort it there. What does not fit (thousands of tokens kept, or a flat row) is found over the whole row, from L2: see
// border(). All sums have one order, given by ids, so that a row's result is its own.
#pragma once

#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/portable/sample_cut.cuh"

namespace quire::gpu {

/// The weight of what is kept of each span, into memory.masses; returns the total and counts.
__device__ inline double weigh_spans(const RowView& view, ChooseMemory& memory, Kept& kept) {
  __syncthreads();
  const int num_spans = span_count(view.vocabulary);
  double counted = 0.0;
  for (int span = threadIdx.x / 32; span < num_spans; span += kChooseWarps) {
    float x[kLogitsPerLane];
    load_span(x, view.logits, span * kSampleSpan, view.vocabulary, view.vectors);
    double mass = 0.0;
#pragma unroll
    for (int i = 0; i < kLogitsPerLane; ++i) {
      const int id = span * kSampleSpan + place_in_span(i);
      const float weight = view.weight(x[i]);
      if (id >= view.vocabulary || !kept.has(key_of(image_of(x[i]), static_cast<uint32_t>(id)), weight)) continue;
      mass += weight;
      counted += 1.0;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) mass += shuffle_xor(mass, offset);
    if (threadIdx.x % 32 == 0) memory.masses[span] = mass;
  }
  kept.count = static_cast<int>(block_total(counted, memory));
  double sum = 0.0;
  for (int span = threadIdx.x; span < num_spans; span += kChooseThreads) sum += memory.masses[span];
  return block_total(sum, memory);
}

/// The first kept token in order of id at which the sum of weights passes `left`; first its span, by memory.masses,
/// then its place there. Rounding may leave a little beyond the end: then the last one that can be drawn.
__device__ inline int32_t draw_from_spans(const RowView& view, ChooseMemory& memory, const Kept& kept, double left) {
  const int num_spans = span_count(view.vocabulary);
  const int per_thread = (num_spans + kChooseThreads - 1) / kChooseThreads;
  const int first = min(num_spans, static_cast<int>(threadIdx.x) * per_thread);
  const int end = min(num_spans, first + per_thread);
  reset_places(memory);
  double sum = 0.0;
  for (int span = first; span < end; ++span) {
    sum += memory.masses[span];
    if (memory.masses[span] > 0.0) atomicMax(&memory.last, span);
  }
  const double before = block_sum_before(sum, memory);
  double through = before;
  for (int span = first; span < end; ++span) {
    through += memory.masses[span];
    if (through > left) atomicMin(&memory.first, span);
  }
  if (threadIdx.x == 0) memory.rest = static_cast<double>(infinity());
  __syncthreads();
  const int chosen = min(memory.first, memory.last);
  if (memory.first == chosen && chosen >= first && chosen < end) {
    double rest = left - before;
    for (int span = first; span < chosen; ++span) rest -= memory.masses[span];
    memory.rest = rest;
  }
  __syncthreads();
  const double rest = memory.rest;
  if (chosen < 0) return view.best_id;

  reset_places(memory);
  const int id = chosen * kSampleSpan + static_cast<int>(threadIdx.x);
  float weight = 0.0f;
  if (id < view.vocabulary) {
    const float x = view.logits[id];
    weight = view.weight(x);
    if (!kept.has(key_of(image_of(x), static_cast<uint32_t>(id)), weight)) weight = 0.0f;
  }
  const double passed = block_sum_before(weight, memory) + weight;
  if (weight > 0.0f) {
    atomicMax(&memory.last, id);
    if (passed > rest) atomicMin(&memory.first, id);
  }
  __syncthreads();
  const int32_t token = min(memory.first, memory.last);
  __syncthreads();
  return token >= 0 ? token : view.best_id;
}

/// What top_k, top_p and min_p leave of the sorted keys [0, count), and a draw from it.
__device__ inline int32_t draw_from_keys(RowView& view, ChooseMemory& memory, const SampleRow& row, int top_k,
                                         int count, double uniform, Kept& kept) {
  constexpr int kPerThread = kCapacity / kChooseThreads;
  if (top_k > 0) count = min(count, top_k);
  if (row.top_p < 1.0f) {
    double total = view.total;
    if (top_k > 0) {
      double sum = 0.0;
      for (int i = threadIdx.x; i < count; i += kChooseThreads) sum += view.weight(logit_of(memory.keys[i]));
      total = block_total(sum, memory);
    }
    count = place_of_goal(view, memory, count, {true, row.top_p * total}, 0.0) + 1;
  }
  if (row.min_p > 0.0f) {
    reset_places(memory);
    for (int i = threadIdx.x; i < count; i += kChooseThreads) {
      if (view.weight(logit_of(memory.keys[i])) < row.min_p) atomicMin(&memory.first, i);
    }
    __syncthreads();
    count = max(1, min(count, memory.first));
    __syncthreads();
  }
  kept.worst = memory.keys[count - 1];
  kept.count = count;
  __syncthreads();
  // In order of id; the weight rides in the lower half.
  for (int i = threadIdx.x; i < count; i += kChooseThreads) {
    const TokenKey key = memory.keys[i];
    memory.keys[i] = key << 32 | __float_as_uint(view.weight(logit_of(key)));
  }
  sort_keys(memory, count);
  const int per_thread = (count + kChooseThreads - 1) / kChooseThreads;
  const int first = static_cast<int>(threadIdx.x) * per_thread;
  reset_places(memory);
  float weights[kPerThread];
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const bool there = i < per_thread && first + i < count;
    weights[i] = there ? __uint_as_float(static_cast<uint32_t>(memory.keys[first + i])) : 0.0f;
    sum += weights[i];
  }
  const double before = block_sum_before(sum, memory);
  view.total = block_total(sum, memory);
  const double left = uniform * view.total;
  double through = before;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    through += weights[i];
    if (weights[i] == 0.0f) continue;
    atomicMax(&memory.last, first + i);
    if (through > left) atomicMin(&memory.first, first + i);
  }
  __syncthreads();
  const int place = min(memory.first, memory.last);
  const int32_t token = id_of(memory.keys[place] >> 32);
  __syncthreads();
  return token;
}

/// Draw from what top_k, top_p and min_p leave. Afterwards view.total is the weight of that.
__device__ inline int32_t draw_from_cut(RowView& view, ChooseMemory& memory, const SampleRow& row, int top_k,
                                        double uniform, Kept& kept) {
  int count = kCapacity + 1;
  if (top_k > 0) {
    count = collect_best(view, memory, top_k);
    if (count <= kCapacity) sort_keys(memory, count);
  } else {
    // Tokens that together weigh no more than what top_p drops are all dropped. A first guess takes few tokens and
    // nearly always holds top_p; the second holds it but for rounding.
    const double dropped = (1.0 - double{row.top_p}) * view.total;
    for (const double guess : {dropped / 1024.0, dropped / view.vocabulary}) {
      const auto least = static_cast<float>(fmax(double{row.min_p}, guess));
      count = collect(view, memory, [&](float x) { return view.weight(x) >= least; });
      if (count > kCapacity) break;
      sort_keys(memory, count);
      if (row.min_p >= guess) break;
      double sum = 0.0;
      for (int i = threadIdx.x; i < count; i += kChooseThreads) sum += view.weight(logit_of(memory.keys[i]));
      if (block_total(sum, memory) >= row.top_p * view.total) break;
      count = kCapacity + 1;
    }
  }
  if (count <= kCapacity) return draw_from_keys(view, memory, row, top_k, count, uniform, kept);
  if (top_k > 0) {
    kept.worst = border(view, memory, {false, static_cast<double>(top_k)}, 0);
    if (row.top_p < 1.0f) view.total = weigh_spans(view, memory, kept);
  }
  if (row.top_p < 1.0f) kept.worst = border(view, memory, {true, row.top_p * view.total}, kept.worst);
  kept.least_weight = row.min_p;
  view.total = weigh_spans(view, memory, kept);
  return draw_from_spans(view, memory, kept, uniform * view.total);
}

/// Philox4x32-10: the first of four random words from a 128-bit counter and a 64-bit key.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants as in Random123.
__device__ inline double uniform_draw(const SampleRow& row) {
  uint32_t counter[4] = {static_cast<uint32_t>(row.position), static_cast<uint32_t>(row.position >> 32), row.sequence,
                         0u};
  uint32_t key[2] = {static_cast<uint32_t>(row.seed), static_cast<uint32_t>(row.seed >> 32)};
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t second = uint64_t{0xCD9E8D57u} * counter[2];
    counter[0] = static_cast<uint32_t>(second >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<uint32_t>(second);
    counter[2] = static_cast<uint32_t>(first >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<uint32_t>(first);
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter[0] * 0x1p-32;
}

/// Take the notes of a row in; leaves the weight of every span in memory.masses. Whether all logits were finite.
__device__ inline bool open_view(RowView& view, ChooseMemory& memory) {
  const int num_spans = span_count(view.vocabulary);
  TokenKey best = 0;
  bool finite = true;
  __syncthreads();
  for (int span = threadIdx.x; span < num_spans; span += kChooseThreads) {
    const SpanSum sum = view.sums[span];
    const TokenKey key = key_of(image_of(sum.best), static_cast<uint32_t>(sum.best_id));
    best = key > best ? key : best;
    finite = finite && sum.finite != 0;
  }
  best = block_largest(best, memory);
  view.best = logit_of(best);
  view.best_id = id_of(best);
  finite = __syncthreads_and(finite ? 1 : 0) != 0 && view.best > minus_infinity();
  if (!finite) return false;
  double total = 0.0;
  for (int span = threadIdx.x; span < num_spans; span += kChooseThreads) {
    const SpanSum sum = view.sums[span];
    const double mass = sum.sum > 0.0f ? sum.sum * exp((double{sum.best} - view.best) * view.scale) : 0.0;
    memory.masses[span] = mass;
    total += mass;
  }
  view.total = block_total(total, memory);
  return true;
}

/// The best tokens in falling order and what was dropped in order of id, without the chosen one, which stands first.
__device__ inline int report(const RowView& view, ChooseMemory& memory, int32_t token, const Kept* kept, int wanted,
                             SampledCandidate* candidates) {
  const double log_total = log(view.total);
  const TokenKey chosen = key_of(image_of(view.logits[token]), static_cast<uint32_t>(token));
  int larger = 0;
  visit_groups(
      view, [&](uint32_t image) { return key_of(image, 0) > chosen; },
      [&](int id, float x) { larger += key_of(image_of(x), static_cast<uint32_t>(id)) > chosen ? 1 : 0; });
  const int chosen_place = static_cast<int>(block_total(larger, memory));
  if (threadIdx.x == 0) {
    candidates[0] = {token, chosen_place + 1, view.log_probability(logit_of(chosen), log_total)};
  }
  wanted = min(wanted, view.vocabulary);
  const int num_best = kept != nullptr ? min(wanted, kept->count) : wanted;
  TokenKey bound = ~TokenKey{0};  // all from here on are reported
  for (int first = 0; first < num_best; first += kCapacity) {
    const int size = min(kCapacity, num_best - first);
    int count = num_best <= kMostInGroups ? collect_best(view, memory, num_best) : kCapacity + 1;
    if (count > kCapacity) {
      const TokenKey worst = border(view, memory, {false, static_cast<double>(first + size)}, 0);
      if (threadIdx.x == 0) memory.num_keys = 0;
      __syncthreads();
      visit_groups(
          view, [&](uint32_t image) { return key_of(image, 0) >= worst; },
          [&](int id, float x) {
            const TokenKey key = key_of(image_of(x), static_cast<uint32_t>(id));
            if (key >= worst && key < bound) memory.keys[atomicAdd(&memory.num_keys, 1)] = key;
          });
      __syncthreads();
      count = memory.num_keys;
      bound = worst;
    }
    sort_keys(memory, count);
    for (int i = threadIdx.x; i < size; i += kChooseThreads) {
      const int place = first + i;
      if (place == chosen_place) continue;
      const TokenKey key = memory.keys[i];
      candidates[place < chosen_place ? place + 1 : place] = {id_of(key), place + 1,
                                                              view.log_probability(logit_of(key), log_total)};
    }
    __syncthreads();
  }
  // All dropped tokens are alike: minus infinity, the smaller id first.
  for (int first = 0, place = num_best; place < wanted; first += kChooseThreads) {
    const int id = first + static_cast<int>(threadIdx.x);
    bool dropped = false;
    if (id < view.vocabulary) {
      const float x = view.logits[id];
      dropped = !kept->has(key_of(image_of(x), static_cast<uint32_t>(id)), view.weight(x));
    }
    const int mine = place + static_cast<int>(block_sum_before(dropped ? 1.0 : 0.0, memory));
    if (dropped && mine < wanted) {
      candidates[mine < chosen_place ? mine + 1 : mine] = {id, mine + 1, minus_infinity()};
    }
    place += __syncthreads_count(dropped ? 1 : 0);
  }
  return wanted + (chosen_place < wanted ? 0 : 1);
}

__global__ void __launch_bounds__(kChooseThreads, 2) choose_tokens(SampleParams params) {
  __shared__ ChooseMemory memory;
  wait_for_previous();
  let_next_start();
  const int row_index = blockIdx.x;
  const SampleRow& row = params.rows[row_index];
  const RowWants wants(row);
  const int vocabulary = params.vocabulary;
  const auto view_of = [&](LogitState state, const float* logits, float scale) {
    RowView view;
    view.logits = logits;
    view.group_best = params.row_groups(state, row_index);
    view.sums = params.row_sums(state, row_index);
    view.vocabulary = vocabulary;
    view.vectors = params.vectors;
    view.scale = scale;
    return view;
  };
  RowView view = view_of(kChanged, params.row_logits(row_index), wants.scale);
  SampledToken result;
  if (!open_view(view, memory)) {
    result.finite = 0;
    if (threadIdx.x == 0) params.tokens[row_index] = result;
    return;
  }
  const int top_k = row.top_k > 0 && row.top_k < vocabulary ? row.top_k : 0;
  const bool cut = !wants.greedy && (top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f);
  const double row_total = view.total;
  Kept kept;
  if (wants.given) {
    result.token = row.given_token;
  } else if (wants.greedy) {
    result.token = view.best_id;
  } else if (cut) {
    result.token = draw_from_cut(view, memory, row, top_k, uniform_draw(row), kept);
  } else {
    result.token = draw_from_spans(view, memory, kept, uniform_draw(row) * view.total);
  }
  const bool as_given = row.raw_logprobs != 0 && !wants.given;
  if (wants.raw) {
    view = view_of(kRaw, wants.edited() ? params.row_raw_logits(row_index) : view.logits, 1.0f);
    open_view(view, memory);
  } else if (as_given) {
    view.total = row_total;
  }
  result.logprob = view.log_probability(view.logits[result.token], log(view.total));
  const int wanted = min(row.num_logprobs, params.max_candidates - 1);
  if (wanted >= 0) {
    result.num_candidates = report(view, memory, result.token, cut && !as_given ? &kept : nullptr, wanted,
                                   params.candidates + static_cast<int64_t>(row_index) * params.max_candidates);
  }
  if (threadIdx.x == 0) params.tokens[row_index] = result;
}

}  // namespace quire::gpu
