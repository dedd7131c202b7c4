// What a thread of the exchange kernels does: send its units of this rank's part, then receive the same units of the
// other ranks. A thread waits for none of its own rank, so that threads may run one after the other. Limited by the
// link, or, for small messages, by the time that a store takes to get there.
#pragma once

#include <cstdint>

#include "kernels_cuda/comm/peer_lines.cuh"
#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

/// The units of a message that a thread has to do with.
struct UnitRange {
  int64_t first;
  int64_t stride;
};

/// Elements of a unit.
template <typename T>
constexpr int kPerUnit = static_cast<int>(kUnitBytes / static_cast<int64_t>(sizeof(T)));

/// kPerUnit<T> elements, or what of them there is, the rest being zero.
template <typename T>
using Unit = Vector<T, kPerUnit<T>>;

/// `aligned`: memory is, to whole units. The last unit may be short all the same.
template <typename T>
__device__ inline Unit<T> load_unit(const T* from, int64_t unit, int64_t count, bool aligned) {
  const int64_t first = unit * kPerUnit<T>;
  if (aligned && first + kPerUnit<T> <= count) return *reinterpret_cast<const Unit<T>*>(from + first);
  Unit<T> loaded;
#pragma unroll
  for (int i = 0; i < kPerUnit<T>; ++i) loaded[i] = first + i < count ? from[first + i] : from_float<T>(0.0f);
  return loaded;
}

template <typename T>
__device__ inline void store_unit(T* to, int64_t unit, int64_t count, bool aligned, const Unit<T>& value) {
  const int64_t first = unit * kPerUnit<T>;
  if (aligned && first + kPerUnit<T> <= count) {
    *reinterpret_cast<Unit<T>*>(to + first) = value;
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerUnit<T>; ++i) {
    if (first + i < count) to[first + i] = value[i];
  }
}

/// Sums that belong to a unit of x are added to float32 memory.
template <typename T>
__device__ inline void add_sums(const ReduceChunk& chunk, int64_t unit, const float (&sums)[kPerUnit<T>]) {
  const int64_t first = unit * kPerUnit<T>;
  float* const to = chunk.add_to + first;
  if (chunk.aligned && first + kPerUnit<T> <= chunk.count) {
    auto* const vectors = reinterpret_cast<Vector<float, 4>*>(to);
#pragma unroll
    for (int k = 0; k < kPerUnit<T> / 4; ++k) {
      Vector<float, 4> values = vectors[k];
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] = fmaf(chunk.scale, sums[4 * k + i], values[i]);
      vectors[k] = values;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPerUnit<T>; ++i) {
    if (first + i < chunk.count) to[i] = fmaf(chunk.scale, sums[i], to[i]);
  }
}

template <typename T>
__device__ inline void words_of(const Unit<T>& unit, uint32_t (&words)[4]) {
  static_assert(sizeof(unit) == sizeof(words));
  memcpy(words, &unit, sizeof(words));
}

template <typename T>
__device__ inline Unit<T> unit_of(const uint32_t (&words)[4]) {
  Unit<T> unit;
  memcpy(&unit, words, sizeof(words));
  return unit;
}

/// The sum of one unit over all ranks, in float32 and in the order of ranks. False if one did not come.
/// `slots`: where this inbox keeps what rank 0 sends; the others' slots are `slot_lines` apart. `kRanks`: at least as
/// many as there are.
template <typename T, int kRanks>
__device__ inline bool sum_unit(const PeerView& peers, Line* slots, int64_t slot_lines, int64_t slot_unit,
                                const Unit<T>& own, uint32_t number, Patience& patience, float (&sums)[kPerUnit<T>]) {
  Arrival<4> arrivals[kRanks];
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r < peers.num_ranks && r != peers.rank) arrivals[r].peek(slots + r * slot_lines, slot_unit);
  }
#pragma unroll
  for (int r = 0; r < kRanks; ++r) {
    if (r >= peers.num_ranks) continue;
    Unit<T> part = own;
    if (r != peers.rank) {
      uint32_t words[4];
      if (!arrivals[r].receive(slots + r * slot_lines, slot_unit, number, r, patience, words)) return false;
      part = unit_of<T>(words);
    }
#pragma unroll
    for (int i = 0; i < kPerUnit<T>; ++i) sums[i] = r == 0 ? to_float(part[i]) : sums[i] + to_float(part[i]);
  }
  return true;
}

template <typename T>
__device__ inline void keep_sums(const ReduceChunk& chunk, int64_t unit, const float (&sums)[kPerUnit<T>]) {
  if (chunk.add_to != nullptr) {
    add_sums<T>(chunk, unit, sums);
    return;
  }
  Unit<T> rounded;
#pragma unroll
  for (int i = 0; i < kPerUnit<T>; ++i) rounded[i] = from_float<T>(sums[i]);
  store_unit(static_cast<T*>(chunk.x), unit, chunk.count, chunk.aligned, rounded);
}

template <typename T>
__host__ __device__ inline int64_t units_of(int64_t count) {
  return (count + kPerUnit<T> - 1) / kPerUnit<T>;
}

__host__ __device__ constexpr int64_t round_up_units(int64_t units) {
  return (units + 31) / 32 * 32;
}

/// Each rank sends all that it has to each other, and sums up everything itself. `own`: the first unit, which the
/// caller has loaded while it found out which call this is. Inbox: a slot for each rank.
template <typename T, int kRanks>
__device__ inline void reduce_at_once(const PeerView& peers, const PeerCall& call, const ReduceChunk& chunk,
                                      const UnitRange& range, const Unit<T>& own) {
  const int64_t units = units_of<T>(chunk.count);
  const int64_t slot_lines = round_up_units(units) * kLinesPerUnit;
  const auto* const x = static_cast<const T*>(chunk.x);
  const auto own_unit = [&](int64_t unit) {
    return unit == range.first ? own : load_unit(x, unit, chunk.count, chunk.aligned);
  };
  for (int64_t unit = range.first; unit < units; unit += range.stride) {
    uint32_t words[4];
    words_of<T>(own_unit(unit), words);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank) continue;
      send(peers.inboxes[r] + call.first_line + peers.rank * slot_lines, unit, words, call.number);
    }
  }
  Patience patience(peers, call);
  Line* const slots = peers.inboxes[peers.rank] + call.first_line;
  for (int64_t unit = range.first; unit < units; unit += range.stride) {
    float sums[kPerUnit<T>];
    if (!sum_unit<T, kRanks>(peers, slots, slot_lines, unit, own_unit(unit), call.number, patience, sums)) return;
    keep_sums<T>(chunk, unit, sums);
  }
}

/// What ranks send each other of sums: as they are, or, if they are rounded anyway, rounded.
template <typename T, bool kAdds>
constexpr int kSumWords = kAdds ? kPerUnit<T> : 4;

/// Ranks whose sums a thread waits for at once, as far as registers go.
template <int kWords, int kRanks>
constexpr int kSumsAtOnce = 32 / kWords < kRanks ? 32 / kWords : kRanks;

/// Keep the sums of unit i of the parts of some ranks, from `first` on. False if one did not come.
template <typename T, int kRanks, bool kAdds>
__device__ inline bool receive_sums(const PeerView& peers, Line* slots, int64_t slot_lines, const PeerCall& call,
                                    const ReduceChunk& chunk, int first, int64_t i, Patience& patience) {
  constexpr int kWords = kSumWords<T, kAdds>, kAtOnce = kSumsAtOnce<kWords, kRanks>;
  const int64_t units = units_of<T>(chunk.count);
  const auto comes = [&](int r) { return r < peers.num_ranks && r != peers.rank && r * chunk.part_units + i < units; };
  Arrival<kWords> arrivals[kAtOnce];
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    if (comes(first + k)) arrivals[k].peek(slots + (first + k) * slot_lines, i);
  }
#pragma unroll
  for (int k = 0; k < kAtOnce; ++k) {
    const int r = first + k;
    if (!comes(r)) continue;
    uint32_t words[kWords];
    if (!arrivals[k].receive(slots + r * slot_lines, i, call.number, r, patience, words)) return false;
    const int64_t unit = r * chunk.part_units + i;
    if constexpr (kAdds) {
      float sums[kPerUnit<T>];
      memcpy(sums, words, sizeof(words));
      add_sums<T>(chunk, unit, sums);
    } else {
      store_unit(static_cast<T*>(chunk.x), unit, chunk.count, chunk.aligned, unit_of<T>(words));
    }
  }
  return true;
}

/// Each rank sums up a part of the units and sends the sums to all others: less is sent, in two trips.
/// Inbox: a slot for what each rank sends of this rank's part, then a slot for the sums of each rank's part.
template <typename T, int kRanks, bool kAdds>
__device__ inline void reduce_in_parts(const PeerView& peers, const PeerCall& call, const ReduceChunk& chunk,
                                       const UnitRange& range) {
  constexpr int kWords = kSumWords<T, kAdds>;
  const int64_t units = units_of<T>(chunk.count), part = chunk.part_units;
  const int64_t slot_lines = round_up_units(part) * kLinesPerUnit;
  const int64_t sum_lines = round_up_units(part) * (kWords / 2);
  const auto* const x = static_cast<const T*>(chunk.x);
  const auto slots = [&](int rank) { return peers.inboxes[rank] + call.first_line; };
  const auto sum_slots = [&](int rank) { return slots(rank) + peers.num_ranks * slot_lines; };
  for (int64_t i = range.first; i < part; i += range.stride) {
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank || r * part + i >= units) continue;
      uint32_t words[4];
      words_of<T>(load_unit(x, r * part + i, chunk.count, chunk.aligned), words);
      send(slots(r) + peers.rank * slot_lines, i, words, call.number);
    }
  }
  Patience patience(peers, call);
  for (int64_t i = range.first; i < part; i += range.stride) {
    const int64_t unit = peers.rank * part + i;
    if (unit >= units) break;
    float sums[kPerUnit<T>];
    const Unit<T> own = load_unit(x, unit, chunk.count, chunk.aligned);
    if (!sum_unit<T, kRanks>(peers, slots(peers.rank), slot_lines, i, own, call.number, patience, sums)) return;
    uint32_t words[kWords];
    if constexpr (kAdds) {
      memcpy(words, sums, sizeof(words));
    } else {
      Unit<T> rounded;
#pragma unroll
      for (int k = 0; k < kPerUnit<T>; ++k) rounded[k] = from_float<T>(sums[k]);
      words_of<T>(rounded, words);
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank) continue;
      send(sum_slots(r) + peers.rank * sum_lines, i, words, call.number);
    }
    keep_sums<T>(chunk, unit, sums);
  }
  for (int64_t i = range.first; i < part; i += range.stride) {
#pragma unroll
    for (int first = 0; first < kRanks; first += kSumsAtOnce<kWords, kRanks>) {
      if (!receive_sums<T, kRanks, kAdds>(peers, sum_slots(peers.rank), sum_lines, call, chunk, first, i, patience))
        return;
    }
  }
}

/// Units of a rank's columns; never none, for each rank must hear of each other in every call.
__host__ __device__ inline int64_t gather_units(const GatherChunk& chunk, int rank) {
  const int64_t units = units_of<float>(int64_t{chunk.rows} * chunk.columns[rank]);
  return units > 0 ? units : 1;
}

/// A unit of a rank's [rows, columns], whose rows are taken as one behind the other: calls element(i, row, column).
template <typename Element>
__device__ inline void for_each_of_unit(const GatherChunk& chunk, int rank, int64_t unit, Element element) {
  const auto columns = static_cast<uint32_t>(chunk.columns[rank]);
  const auto end = static_cast<uint32_t>(chunk.rows) * columns;
  const auto first = static_cast<uint32_t>(unit) * kPerUnit<float>;
#pragma unroll
  for (uint32_t i = 0; i < kPerUnit<float>; ++i) {
    if (first + i < end) element(i, int64_t{(first + i) / columns}, int64_t{(first + i) % columns});
  }
}

__device__ inline Unit<float> load_columns(const PeerView& peers, const GatherChunk& chunk, int64_t unit) {
  Unit<float> loaded{};
  if (chunk.aligned && chunk.columns[peers.rank] > 0) {
    const auto columns = static_cast<uint32_t>(chunk.columns[peers.rank]);
    const auto first = static_cast<uint32_t>(unit) * kPerUnit<float>;
    return *reinterpret_cast<const Unit<float>*>(chunk.x + first / columns * chunk.x_stride + first % columns);
  }
  for_each_of_unit(chunk, peers.rank, unit, [&](uint32_t i, int64_t row, int64_t column) {
    loaded[static_cast<int>(i)] = chunk.x[row * chunk.x_stride + column];
  });
  return loaded;
}

__device__ inline void store_columns(const GatherChunk& chunk, int rank, int64_t unit, const Unit<float>& value) {
  float* const out = chunk.out + chunk.first[rank];
  if (chunk.aligned && chunk.columns[rank] > 0) {
    const auto columns = static_cast<uint32_t>(chunk.columns[rank]);
    const auto first = static_cast<uint32_t>(unit) * kPerUnit<float>;
    *reinterpret_cast<Unit<float>*>(out + first / columns * chunk.out_stride + first % columns) = value;
    return;
  }
  for_each_of_unit(chunk, rank, unit, [&](uint32_t i, int64_t row, int64_t column) {
    out[row * chunk.out_stride + column] = value[static_cast<int>(i)];
  });
}

/// Inbox: a slot for each rank, of as many lines as the widest rank, the first, needs.
template <int kRanks>
__device__ inline void gather_columns(const PeerView& peers, const PeerCall& call, const GatherChunk& chunk,
                                      const UnitRange& range) {
  const int64_t slot_units = gather_units(chunk, 0), slot_lines = round_up_units(slot_units) * kLinesPerUnit;
  const int64_t own_units = gather_units(chunk, peers.rank);
  for (int64_t unit = range.first; unit < own_units; unit += range.stride) {
    const Unit<float> own = load_columns(peers, chunk, unit);
    uint32_t words[4];
    words_of<float>(own, words);
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank) continue;
      send(peers.inboxes[r] + call.first_line + peers.rank * slot_lines, unit, words, call.number);
    }
    store_columns(chunk, peers.rank, unit, own);
  }
  Patience patience(peers, call);
  Line* const slots = peers.inboxes[peers.rank] + call.first_line;
  for (int64_t unit = range.first; unit < slot_units; unit += range.stride) {
    Arrival<4> arrivals[kRanks];
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank || unit >= gather_units(chunk, r)) continue;
      arrivals[r].peek(slots + r * slot_lines, unit);
    }
#pragma unroll
    for (int r = 0; r < kRanks; ++r) {
      if (r >= peers.num_ranks || r == peers.rank || unit >= gather_units(chunk, r)) continue;
      uint32_t words[4];
      if (!arrivals[r].receive(slots + r * slot_lines, unit, call.number, r, patience, words)) return;
      store_columns(chunk, r, unit, unit_of<float>(words));
    }
  }
}

}  // namespace quire::gpu
