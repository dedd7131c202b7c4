// Attention of sequences with one query: out = softmax(q . K^T) V over the pages of each.
//
// The keys are read once, so this is limited by memory. The query heads of a kv head are the rows of one tensor-core
// tile. Work is counted in cells of 16 keys: all cells of all (sequence, kv head) pairs, one behind the other, are cut
// into runs, one per block, and a block's run into one per warp: equal ones, but for ends that are moved to the end of
// a short pair (cut_at). A warp keeps a ring of cells in flight of its own and never waits for another. Where a pair is
// cut its parts (largest score, sum, unnormalised values) are joined: inside a block after its run, between blocks by
// the one that comes last. The cut depends on context lengths alone, which the kernel reads from device memory: a
// recorded launch serves every step. Lists of the batch, and keys and values but those of the step's own tokens, were
// there before the step: they are read while the kernel before, which writes the rest, still runs. Where all sequences
// have one query, a form of the kernel does what rope_kv_write would (turned_rows.cuh): the cells that it reads then
// all were there before.
#include <algorithm>
#include <cmath>
#include <type_traits>

#include "kernels_cuda/attention/cell_ring.cuh"
#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/attention/turned_rows.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/reduce.cuh"
#include "kernels_cuda/gemm/skinny.h"

namespace quire::gpu {
namespace {

/// A pair is short if all of a block's warps together have it done after so many cells each. It is not cut between
/// blocks: its parts would be joined later than that.
constexpr int kShortCells = 3;

/// Nor between warps, if the end of a run is then moved by no more than this part of it. Memory is the limit, and a
/// warp may read several times its share of it, while a cut pair is begun, left and fetched twice.
constexpr int kMostMoved = 3;  // a third

/// From this share of the device on, in per cent, blocks hold the next kernel back until all of them have ended; 101:
/// never. A block's rings leave no room for one of a product beside it. Products that may start earlier go where there
/// is room: to what is free, or ends first, two blocks to a multiprocessor, while as many stay idle; the kernel behind
/// them then gets the idle ones, two blocks each, and so on. On an H200 a step of Llama-3-8B takes 5.08 instead of 6.29
/// ms so with one sequence of 4096 keys and no chain, 9.49 instead of 9.69 with 256 of some 200. With 9 to 64 sequences
/// a skinny product follows, whose blocks have a multiprocessor each: those may start, 4.29 instead of 4.36 ms with 16.
constexpr int kHoldNextPercent = 50;
constexpr int kFewestNotHeld = 9;

/// Where a run of cells ends and the next begins.
struct Cut {
  int unit;
  int sequence;  ///< that of the cell in front is no later, that of the cell behind no earlier
};

/// Near cell `at` of a run up to `end`, all of whose cells are of the sequences from `low` to `high`: in a pair of up
/// to `few` cells at its nearer end, if that is at most `most` cells away. In order: a later `at` gives no earlier cut.
__device__ Cut cut_at(const KeySchedule<kCellKeys>& schedule, int at, int end, int low, int high, int few, int most) {
  if (at >= end) return {end, high};
  const UnitPlace place = place_of(schedule, at, low, high);
  const int cells = schedule.units_of(place.sequence);
  const int to = place.unit <= cells / 2 ? -place.unit : cells - place.unit;
  return {cells <= few && abs(to) <= most ? at + to : at, place.sequence};
}

/// What a warp knows of the pair that it is at.
template <typename T, int kDim>
struct PairState {
  uint32_t q[kDim / 16][4];
  float out[kDim / 8][4];
  float best[2];  ///< largest score of rows lane / 4 and lane / 4 + 8
  float sum[2];   ///< of this lane's columns
  float slope[2];

  __device__ void load_queries(const AttentionProblem& problem, int token, int first_head, int real_rows) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      const bool real = row < real_rows;
      const T* const from = static_cast<const T*>(problem.q) + token * problem.q_token_stride +
                            (real ? first_head + row : 0) * problem.q_head_stride + lane % 4 * 2;
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        q[k][half] = real ? *reinterpret_cast<const uint32_t*>(from + k * 16) : 0;
        q[k][half + 2] = real ? *reinterpret_cast<const uint32_t*>(from + k * 16 + 8) : 0;
      }
    }
  }

  __device__ void load_queries(const TurnedRows<T, kDim>& turned, int real_rows) {
    const LaneRows rows;
    const int row = threadIdx.x % 32 / 4;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      load_matrices(q[k], turned.query_address(k, min(rows.a_row, real_rows - 1), rows.a_odd));
      if (row >= real_rows) q[k][0] = q[k][2] = 0;
      if (row + 8 >= real_rows) q[k][1] = q[k][3] = 0;
    }
  }

  __device__ void start(const AttentionProblem& problem, int first_head, int real_rows) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = threadIdx.x % 32 / 4 + half * 8;
      slope[half] = row < real_rows && problem.alibi_slopes != nullptr ? problem.alibi_slopes[first_head + row] : 0.0f;
      best[half] = -INFINITY;
      sum[half] = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) out[n][0] = out[n][1] = out[n][2] = out[n][3] = 0.0f;
  }

  /// `key`: the cell's first; the query sees keys from `first` up to `context` exclusively. `factor`: from what scores
  /// are after `rules` to exponents of two.
  __device__ void add(uint32_t cell, int key, int first, int context, const AttentionProblem& problem, bool rules,
                      float factor) {
    constexpr int kChunks = Cell<kDim>::kChunks;
    const LaneRows rows;
    const int column = threadIdx.x % 4 * 2;
    float score[2][4] = {};
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
      uint32_t keys[4];
      load_matrices(keys, cell_address<kChunks>(cell, k, rows.b_row, rows.b_odd));
      multiply_add<T>(score[0], q[k], keys[0], keys[1]);
      multiply_add<T>(score[1], q[k], keys[2], keys[3]);
    }
    if (rules) {
      const float inverse = problem.softcap > 0.0f ? 1.0f / problem.softcap : 0.0f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float& s = score[i / 4][i % 4];
        s *= problem.scale;
        if (problem.softcap > 0.0f) s = soft_limit(s, problem.softcap, inverse);
        s += slope[i / 2 % 2] * static_cast<float>(key + i / 4 * 8 + column + i % 2 - (context - 1));
      }
    }
    uint32_t wanted[2] = {0xffffffffu, 0xffffffffu};  // values of these keys
    if (key < first || key + kCellKeys > context) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = key + i / 2 * 8 + column + i % 2;
        if (at >= first && at < context) continue;
        score[i / 2][i % 2] = score[i / 2][i % 2 + 2] = -INFINITY;
        wanted[i / 2] &= i % 2 == 0 ? 0xffff0000u : 0x0000ffffu;
      }
    }
    uint32_t weights[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* const a = &score[0][2 * half];
      float* const b = &score[1][2 * half];
      const float most = fmaxf(best[half], quad_max(fmaxf(fmaxf(a[0], a[1]), fmaxf(b[0], b[1]))));
      // A product of its own in both places: a row whose best score stays must shrink by exactly 1.
      const float base = most == -INFINITY ? 0.0f : __fmul_rn(most, factor);
      if (__any_sync(0xffffffffu, most > best[half])) {
        const float shrink = power_of_two(__fmul_rn(best[half], factor) - base);
        sum[half] *= shrink;
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          out[n][2 * half] *= shrink;
          out[n][2 * half + 1] *= shrink;
        }
        best[half] = most;
      }
      a[0] = power_of_two(a[0] * factor - base);
      a[1] = power_of_two(a[1] * factor - base);
      b[0] = power_of_two(b[0] * factor - base);
      b[1] = power_of_two(b[1] * factor - base);
      sum[half] += (a[0] + a[1]) + (b[0] + b[1]);
      weights[half] = pack_pair<T>(a[0], a[1]);
      weights[half + 2] = pack_pair<T>(b[0], b[1]);
    }
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t values[4];
      load_matrices_transposed(values, cell_address<kChunks>(cell + Cell<kDim>::kHalfBytes, n, rows.a_row, rows.a_odd));
      multiply_add<T>(out[2 * n], weights, values[0] & wanted[0], values[1] & wanted[1]);
      multiply_add<T>(out[2 * n + 1], weights, values[2] & wanted[0], values[3] & wanted[1]);
    }
  }

  __device__ void write_part(float* part, int real_rows, float factor) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      const float total = quad_sum(sum[half]);
      if (row >= real_rows) continue;
      if (lane % 4 == 0) {
        part[row] = __fmul_rn(best[half], factor);
        part[kPartRows + row] = total;
      }
      float* const to = part + 2 * kPartRows + row * kDim + lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<float2*>(to + n * 8) = make_float2(out[n][2 * half], out[n][2 * half + 1]);
      }
    }
  }

  __device__ void write_out(const AttentionProblem& problem, int token, int first_head, int real_rows,
                            float factor) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane / 4 + half * 8;
      float total = quad_sum(sum[half]);
      if (row >= real_rows) continue;
      const int head = first_head + row;
      float shrink = 1.0f;
      if (problem.sinks != nullptr) {
        const float sink = problem.sinks[head] * kLog2e;
        const float base = __fmul_rn(best[half], factor);
        const float most = fmaxf(sink, base);
        shrink = power_of_two(base - most);
        total = total * shrink + power_of_two(sink - most);
      }
      const float inverse = shrink / total;
      T* const to = static_cast<T*>(problem.out) + token * problem.out_token_stride + head * problem.out_head_stride +
                    lane % 4 * 2;
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n) {
        *reinterpret_cast<uint32_t*>(to + n * 8) =
            pack_pair<T>(out[n][2 * half] * inverse, out[n][2 * half + 1] * inverse);
      }
    }
  }
};

/// rope_kv_write has been there.
struct NoTokens {};

/// `Tokens`: NewTokens<T>, if rope_kv_write has not.
template <typename T, int kDim, typename Tokens>
__global__ void __launch_bounds__(32 * DecodeShape<kDim>::kMaxWarps, 1)
    decode_kernel(const AttentionProblem problem, const DecodeDivisors by, const Tokens tokens) {
  using S = DecodeShape<kDim>;
  constexpr bool kTurns = !std::is_same_v<Tokens, NoTokens>;
  const int warps = by.warps, blocks = by.blocks, tiles = by.tiles;
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  std::byte* const rings = shared;
  const int turned_bytes = kTurns ? static_cast<int>(TurnedRows<T, kDim>::bytes(problem.group)) : 0;
  std::byte* const turned_rows = rings + warps * S::kRingBytes;
  std::byte* const barriers = turned_rows + warps * turned_bytes;
  int* const lists = reinterpret_cast<int*>(barriers + warps * S::kStages * 8);
  // By warp: parts that it left behind, in scratch memory (0) and then in its ring (1).
  __shared__ PartOwner owners[S::kMaxWarps][2];
  __shared__ bool comes_last[2];
  __shared__ int ends_in[2];  // sequences of the block's first cell, and of the next block's

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t own_barriers = shared_address(barriers) + warp * S::kStages * 8;
  if (lane < S::kStages) barrier_init(own_barriers + lane * 8, 1);
  fence_for_copies();
  __syncwarp();

  const KeySchedule<kCellKeys> schedule(lists, problem, tiles);
  const int few = kShortCells * warps, block = static_cast<int>(blockIdx.x);
  // No less than a cell for each warp.
  const auto units_of_block = [&](int units) { return max((units + blocks - 1) / by.blocks, warps); };
  const bool long_pairs = make_schedule(schedule, problem, few, [&](int s, int begin, int end, int all) {
    const int block_units = units_of_block(all * schedule.pairs);
    for (int i = 0; i < 2; ++i) {
      const int unit = (block + i) * block_units;
      if (unit >= begin * schedule.pairs && unit < end * schedule.pairs) ends_in[i] = s;
    }
  });
  const int units = schedule.units(), block_units = units_of_block(units);
  // Blocks without work make room for the next kernel; but one must wait (common/launch.cuh).
  if (block == 0 && units == 0) wait_for_previous();
  // Even lanes look for where a run begins, odd ones for where it ends. Only long pairs are cut between blocks, and in
  // these no cut is moved: which blocks have parts of one follows from `block_units`.
  const int block_at = (block + lane % 2) * block_units;
  const int end_in = block_at < units ? ends_in[lane % 2] : schedule.sequences - 1;
  const Cut block_cut = cut_at(schedule, block_at, units, end_in, end_in, few, /*most=*/few);
  const int block_begin = shuffle(block_cut.unit, 0), block_end = shuffle(block_cut.unit, 1);
  if (block_begin >= block_end) return;
  const int first_sequence = shuffle(block_cut.sequence, 0), last_sequence = shuffle(block_cut.sequence, 1);
  const int block_cells = block_end - block_begin;
  const Cut warp_cut = cut_at(schedule, block_begin + (warp + lane % 2) * max(block_cells, warps) / by.warps, block_end,
                              first_sequence, last_sequence, few, block_cells / by.warps / kMostMoved);
  const int begin = shuffle(warp_cut.unit, 0), count = shuffle(warp_cut.unit, 1) - begin;

  float* const block_parts = problem.scratch + blocks * warps * S::kPartFloats;
  const auto warp_part = [&](int w, int which) -> float* {
    if (which == 1) return reinterpret_cast<float*>(rings + w * S::kRingBytes);
    return problem.scratch + (block * warps + w) * S::kPartFloats;
  };
  const bool rules = problem.softcap > 0.0f || problem.alibi_slopes != nullptr;
  const float factor = rules ? kLog2e : problem.scale * kLog2e;

  const int num_pairs = schedule.sequences * schedule.pairs;
  const int holding_blocks = (blocks * kHoldNextPercent + 99) / 100;
  const bool may_hold = schedule.sequences < kFewestNotHeld || schedule.sequences > kMostSkinnyRows;
  const bool hold_next =
      may_hold && (holding_blocks - 1) * block_units < units && (long_pairs || num_pairs >= holding_blocks);
  if (lane < 2) owners[warp][lane].pair = -1;
  __syncwarp();
  if (count == 0) {
    if (!hold_next) let_next_start();
    wait_for_previous();
  } else {
    const UnitPlace own = place_of(schedule, begin + min(lane, count - 1), first_sequence, last_sequence);
    UnitPlace place = {shuffle(own.sequence, 0), shuffle(own.pair, 0), shuffle(own.unit, 0)};
    // Without a branch and a sign, for either of which the compiler would wait for it at once.
    const auto rope_row = [&]([[maybe_unused]] int sequence) -> uint32_t {
      if constexpr (kTurns) {
        const int token = schedule.tokens[min(sequence, schedule.sequences - 1)];
        return static_cast<uint32_t>(tokens.angles.rows[token]);
      }
      return 0;
    };
    // On its way while block tables are.
    const uint32_t first_rope_row = rope_row(place.sequence);
    CellRing<kDim> ring(rings + warp * S::kRingBytes, own_barriers, schedule, problem, by, begin, count, own, kTurns);
    const auto make_turned = [&] {
      if constexpr (kTurns) {
        return TurnedRows<T, kDim>(tokens, problem, by.block_size, turned_rows + warp * turned_bytes);
      } else {
        return NoTokens{};
      }
    };
    [[maybe_unused]] auto turned = make_turned();
    if constexpr (kTurns) turned.look_up(first_rope_row);
    const auto sequence_after = [&](int sequence) {
      do ++sequence;
      while (sequence < schedule.sequences && schedule.units_of(sequence) == 0);
      return sequence;
    };
    int following = sequence_after(place.sequence);
    uint32_t following_rope_row = rope_row(following);
    /// `left`: cells of the warp from the place on.
    const auto rows_of = [&](const UnitPlace& place, int left) -> PairRows {
      const int kv_head = place.pair / by.tiles, tile = place.pair % by.tiles;
      return {.token = schedule.tokens[place.sequence],
              .kv_head = kv_head,
              .first_head = kv_head * problem.group + tile * kPartRows,
              .num_queries = min(problem.group - tile * kPartRows, kPartRows),
              .last = place.unit + left >= schedule.units_of(place.sequence),
              .store = tile == 0};
    };
    // What the next kernel reads ahead must not stand in the way.
    if (!hold_next) let_next_start();
    wait_for_previous();
    if constexpr (kTurns) turned.ask(rows_of(place, count));
    ring.fill();
    PairState<T, kDim> state;
    bool begun_elsewhere = place.unit > 0;
    for (int i = 0; i < count;) {
      const PairRows rows = rows_of(place, count - i);
      const int context = schedule.contexts[place.sequence], cells = schedule.units_of(place.sequence);
      const int first = schedule.first_key(place.sequence);
      const int stop = min(count, i + cells - place.unit);
      int key = (first / kCellKeys + place.unit) * kCellKeys;
      const UnitPlace next =
          place.pair + 1 < schedule.pairs ? UnitPlace{place.sequence, place.pair + 1, 0} : UnitPlace{following, 0, 0};
      [[maybe_unused]] bool has_newest = false;
      if constexpr (kTurns) {
        has_newest = turned.turn(rows);
        state.load_queries(turned, rows.num_queries);
        if (stop < count) {
          __syncwarp();
          if (next.sequence != place.sequence) turned.look_up(following_rope_row);
          turned.ask(rows_of(next, count - stop));
        }
      } else {
        state.load_queries(problem, rows.token, rows.first_head, rows.num_queries);
      }
      state.start(problem, rows.first_head, rows.num_queries);
      for (; i < stop; ++i, key += kCellKeys) {
        const uint32_t cell = ring.wait(i);
        if constexpr (kTurns) {
          if (has_newest && key + kCellKeys >= context) turned.add_newest(ring.cell(i), context - 1 - key);
        }
        state.add(cell, key, first, context, problem, rules, factor);
        ring.release(i);
      }
      if (rows.last && !begun_elsewhere) {
        state.write_out(problem, rows.token, rows.first_head, rows.num_queries, factor);
      } else {
        // The ring is free behind the warp's last cell.
        const int which = i == count ? 1 : 0;
        state.write_part(warp_part(warp, which), rows.num_queries, factor);
        const int pair_begin = schedule.units_before[place.sequence] * schedule.pairs + place.pair * cells;
        if (lane == 0) {
          owners[warp][which] = {place.sequence * schedule.pairs + place.pair,
                                 pair_begin,
                                 pair_begin + cells,
                                 rows.token,
                                 rows.first_head,
                                 rows.num_queries};
        }
      }
      if (i == count) break;
      begun_elsewhere = false;
      if (next.sequence != place.sequence) {
        following = sequence_after(next.sequence);
        following_rope_row = rope_row(following);
      }
      place = next;
    }
  }
  __syncthreads();

  // Join what this block has of each pair that its warps have cut, the pairs side by side. A pair's parts are those of
  // neighbouring warps, one of each; lane i knows about part i.
  const int own_pair = lane < 2 * warps ? owners[lane / 2][lane % 2].pair : -1;
  const unsigned parts = __ballot_sync(kFullWarp, own_pair >= 0);
  if (parts == 0) return;
  const unsigned parts_before = parts & ((1u << lane) - 1);
  const int pair_before = __shfl_sync(kFullWarp, own_pair, parts_before == 0 ? lane : 31 - __clz(parts_before));
  const unsigned firsts = __ballot_sync(kFullWarp, own_pair >= 0 && (parts_before == 0 || pair_before != own_pair));
  const int pairs = __popc(firsts), teams = min(pairs, warps);
  const int rank = static_cast<int>(static_cast<unsigned>(warp) / static_cast<unsigned>(teams));
  const int own_team = warp - rank * teams;
  const unsigned team_warps = static_cast<unsigned>(warps - own_team + teams - 1) / static_cast<unsigned>(teams);
  const Team team{rank * 32 + lane, static_cast<int>(team_warps) * 32};
  const auto owner_of = [&](int part) -> const PartOwner& { return owners[part / 2][part % 2]; };
  // What other blocks have parts of, too: blocks before (then maybe blocks behind), or blocks behind only.
  const int first_part = __ffs(firsts) - 1, last_part = 31 - __clz(firsts);
  const bool before = owner_of(first_part).begin < block_begin;
  const bool behind = owner_of(last_part).end > block_end && !(before && pairs == 1);
  int i = 0, next_of_team = own_team;
  for (unsigned rest = firsts; rest != 0; rest &= rest - 1, ++i) {
    if (i != next_of_team) continue;
    next_of_team += teams;
    const int first = __ffs(rest) - 1;
    const unsigned others = rest & (rest - 1);
    const int count_parts = __popc(parts & (others == 0 ? ~0u << first : (others & -others) - (1u << first)));
    const PartOwner& owner = owner_of(first);
    float* to = nullptr;
    if (before && i == 0) {
      to = block_parts + block * 2 * S::kPartFloats;
    } else if (behind && others == 0) {
      to = block_parts + (block * 2 + 1) * S::kPartFloats;
    }
    join<T, kDim, false>(
        team, owner, count_parts,
        [&](int part) -> const float* {
          const int w = first / 2 + part;
          return warp_part(w, owners[w][1].pair == owner.pair ? 1 : 0);
        },
        to, problem);
  }
  if (!before && !behind) return;
  __syncthreads();
  const auto first_block = [&](const PartOwner& owner) { return owner.begin / block_units; };
  const auto last_block = [&](const PartOwner& owner) { return (owner.end - 1) / block_units; };
  if (lane == 0 && warp < 2) {
    const PartOwner& owner = owner_of(warp == 0 ? first_part : last_part);
    bool last = false;
    if (warp == 0 ? before : behind) {
      unsigned* const counter = &problem.counters[first_block(owner)];
      last = count_arrival(counter) == static_cast<unsigned>(last_block(owner) - first_block(owner));
      if (last) *counter = 0;
    }
    comes_last[warp] = last;
  }
  __syncthreads();
  for (int which = 0; which < 2; ++which) {
    if (!comes_last[which]) continue;
    const PartOwner& owner = owner_of(which == 0 ? first_part : last_part);
    const int first = first_block(owner);
    join<T, kDim, true>(
        Team{static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x)}, owner, last_block(owner) - first + 1,
        [&](int part) -> const float* {
          return block_parts + ((first + part) * 2 + (part == 0 ? 1 : 0)) * S::kPartFloats;
        },
        nullptr, problem);
  }
}

int num_blocks(const Device& device) {
  return device.num_multiprocessors;
}

/// Shared memory of a launch.
template <int kDim>
struct Room {
  static constexpr size_t kReserved = 1024;  // what the kernel declares itself, and the system's
  static constexpr size_t kWarpBytes = DecodeShape<kDim>::kRingBytes + DecodeShape<kDim>::kStages * 8;

  Room(const AttentionProblem& problem, const Device& device)
      : available(device.shared_memory_per_block - kReserved),
        lists(KeySchedule<kCellKeys>::bytes(problem.num_sequences)),
        warps(std::min<size_t>(DecodeShape<kDim>::kMaxWarps, (available - lists) / kWarpBytes)) {}

  /// `turned`: of a warp.
  size_t bytes(size_t turned = 0) const { return warps * (kWarpBytes + turned) + lists; }

  size_t available, lists, warps;
};

template <int kDim>
size_t turned_bytes(const AttentionProblem& problem) {
  return TurnedRows<Half, kDim>::bytes(problem.group);  // of all types
}

template <typename T, int kDim, typename Tokens>
void run(const AttentionProblem& problem, const Tokens& tokens, GpuStream& stream) {
  const auto kernel = decode_kernel<T, kDim, Tokens>;
  const Room<kDim> room(problem, stream.device());
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, room.available); });
  const size_t turned = std::is_same_v<Tokens, NoTokens> ? 0 : turned_bytes<kDim>(problem);
  const int blocks = num_blocks(stream.device()), warps = static_cast<int>(room.warps);
  const DecodeDivisors by{.blocks = Divisor(blocks),
                          .warps = Divisor(warps),
                          .tiles = Divisor((problem.group + kPartRows - 1) / kPartRows),
                          .block_size = Divisor(problem.layout.block_size)};
  launch("attention", kernel, dim3(blocks), dim3(32 * warps), room.bytes(turned), stream, problem, by, tokens);
}

template <int kDim>
using Dim = std::integral_constant<int, kDim>;

/// Work(Dim<128>{}) say.
template <typename Work>
auto with_dim(int head_dim, Work&& work) {
  switch (head_dim) {
    case 64: return work(Dim<64>{});
    case 80: return work(Dim<80>{});
    case 96: return work(Dim<96>{});
    case 112: return work(Dim<112>{});
    case 128: return work(Dim<128>{});
    case 160: return work(Dim<160>{});
    case 192: return work(Dim<192>{});
    case 256: return work(Dim<256>{});
    default: QUIRE_CHECK(false, "head_dim=", head_dim);
  }
}

}  // namespace

size_t decode_scratch_bytes(const Device& device) {
  const auto bytes = [](auto shape) { return (shape.kMaxWarps + 2) * shape.kPartFloats * sizeof(float); };
  return static_cast<size_t>(num_blocks(device)) * std::max(bytes(DecodeShape<128>{}), bytes(DecodeShape<256>{}));
}

size_t decode_counters(const Device& device) {
  return static_cast<size_t>(num_blocks(device));
}

void attend_decode(const AttentionProblem& problem, DType dtype, GpuStream& stream) {
  with_dim(problem.head_dim, [&](auto dim) {
    if (dtype == DType::kBFloat16) {
      run<BFloat, dim>(problem, NoTokens{}, stream);
    } else {
      run<Half, dim>(problem, NoTokens{}, stream);
    }
  });
}

bool roped_decode_has_room(const AttentionProblem& problem, const Device& device) {
  return with_dim(problem.head_dim, [&](auto dim) {
    const Room<dim> room(problem, device);
    return room.bytes(turned_bytes<dim>(problem)) <= room.available;
  });
}

void attend_decode_roped(const RopeKvWriteArgs& rope, const AttentionProblem& problem, DType dtype, GpuStream& stream) {
  with_dim(problem.head_dim, [&](auto dim) {
    if (dtype == DType::kBFloat16) {
      run<BFloat, dim>(problem, new_tokens_of<BFloat>(rope), stream);
    } else {
      run<Half, dim>(problem, new_tokens_of<Half>(rope), stream);
    }
  });
}

}  // namespace quire::gpu
