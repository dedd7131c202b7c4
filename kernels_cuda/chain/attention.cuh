// Attention of a chain. Keys are read by the lanes that multiply them, 16 bytes each, in the order that the tensor
// cores want their operands in, which may be any as long as both have the same; pairs of keys that values need side by
// side are made of two registers by moving bytes. The warps of a block share the keys of a kv head, and so do several
// blocks if there are many. Keys of earlier tokens are read before the token's own q, k and v are there.
#pragma once

#include <cmath>

#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/rope_chunks.cuh"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/chain/exchange.cuh"

namespace quire::gpu {

/// Which keys a block has in attention: cells of 16 of one kv head. Several blocks share a head only where each of
/// their warps has some cells then.
struct KeyRange {
  int context, first;  ///< keys from `first` up to `context` are seen
  int kv_head;
  int most_splits, splits, split;
  int begin, end;

  __device__ explicit KeyRange(const AttentionLink& link) {
    constexpr int kWorthABlock = 2 * kRowWarps;
    context = link.context_lens[0];
    first = link.window > 0 ? max(0, context - link.window) : 0;
    const int first_cell = first / kCellKeys;
    const int cells = (context + kCellKeys - 1) / kCellKeys - first_cell;
    most_splits = max(static_cast<int>(gridDim.x) / link.kv_heads, 1);
    splits = min(max((cells + kWorthABlock - 1) / kWorthABlock, 1), most_splits);
    kv_head = static_cast<int>(blockIdx.x) % link.kv_heads;
    split = static_cast<int>(blockIdx.x) / link.kv_heads;
    begin = first_cell + static_cast<int>(int64_t{cells} * split / splits);
    end = first_cell + static_cast<int>(int64_t{cells} * (split + 1) / splits);
  }
};

/// Where the halves of a cell lie: the kv head's part of their pages, and the first of their rows in it.
struct CellPlace {
  const std::byte* pages[2];
  int rows[2];
};

/// Queries of up to 8 heads that share a kv head, and what they have seen of its keys. Lanes: g = lane / 4 is a head,
/// p = lane % 4. The tensor cores would have 8 more heads, which are zeros here.
template <typename T, int kDim>
class Heads8 {
 public:
  static constexpr int kPieces = kDim / 32;  ///< of a head, 8 components of each of four lanes
  static constexpr int kRuns = kDim / 64;    ///< of a head, 8 components of each of eight lanes

  /// What a lane holds of 16 keys: components p * 8 .. + 7 of each piece of keys g and g + 8.
  struct Keys {
    uint4 pieces[2][kPieces];
  };
  /// Components g * 8 .. + 7 of each run of the values of keys 2p, 2p + 1, 2p + 8, 2p + 9.
  struct Values {
    uint4 runs[4][kRuns];
  };

  /// Of the queries in shared memory, in bytes from head to head: see line_begin().
  static constexpr int kQueryStride = kDim * 2 + 64;
  static_assert((kMostGroup + 2) * kQueryStride <= attention_room(kDim, 1));

  /// `queries`: shared memory for 8 of them, and behind them the key and the value of the token.
  __device__ Heads8(const AttentionLink& link, int kv_head, std::byte* queries)
      : link_(link), kv_head_(kv_head), queries_(queries) {}

  /// Before the first weigh(). Keys and values that are loaded ahead leave no registers for what this sets.
  __device__ void start() {
    best_ = -INFINITY;
    sum_ = 0.0f;
#pragma unroll
    for (auto& tile : out_) tile[0] = tile[1] = tile[2] = tile[3] = 0.0f;
  }

  /// Keys from `first` up to
  /// `stop` exclusively are wanted.
  __device__ void load(Keys& keys, const CellPlace& place, int cell, int first, int stop) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = cell * kCellKeys + half * 8 + group_lane();
      const int row = place.rows[half] + group_lane();
      const bool seen = key >= first && key < stop;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int chunk = kv_chunk_place(i * 4 + lane_of_four(), row, kChunks, link_.block_size);
        keys.pieces[half][i] = seen ? load_past_l1(reinterpret_cast<const uint4*>(place.pages[half]) + chunk) : uint4{};
      }
    }
  }

  __device__ void load(Values& values, const CellPlace& place, int cell, int first, int stop) const {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int key = cell * kCellKeys + k / 2 * 8 + lane_of_four() * 2 + k % 2;
      const int row = place.rows[k / 2] + lane_of_four() * 2 + k % 2;
      const bool seen = key >= first && key < stop;
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
        const int chunk =
            kChunks * link_.block_size + kv_chunk_place(i * 8 + group_lane(), row, kChunks, link_.block_size);
        values.runs[k][i] = seen ? load_past_l1(reinterpret_cast<const uint4*>(place.pages[k / 2]) + chunk) : uint4{};
      }
    }
  }

  /// Put in key number `newest`, which is not in the cache yet.
  __device__ void add_newest(Keys& keys, Values& values, int cell, int newest) const {
    const std::byte* const key_row = queries_ + kMostGroup * kQueryStride;
    const std::byte* const value_row = key_row + kQueryStride;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (cell * kCellKeys + half * 8 + group_lane() != newest) continue;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        keys.pieces[half][i] = *reinterpret_cast<const uint4*>(key_row + (i * 4 + lane_of_four()) * kChunkBytes);
      }
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (cell * kCellKeys + k / 2 * 8 + lane_of_four() * 2 + k % 2 != newest) continue;
#pragma unroll
      for (int i = 0; i < kRuns; ++i) {
        values.runs[k][i] = *reinterpret_cast<const uint4*>(value_row + (i * 8 + group_lane()) * kChunkBytes);
      }
    }
  }

  /// weights := what the softmax over the keys seen so far gives to these. `factor`: from products to exponents of two.
  __device__ void weigh(const Keys& keys, int cell, int first, int context, float factor, uint32_t (&weights)[4]) {
    float score[2][4] = {};
    const std::byte* const query = queries_ + group_lane() * kQueryStride + lane_of_four() * kChunkBytes;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const uint4 a = *reinterpret_cast<const uint4*>(query + i * 64);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint4 piece = keys.pieces[half][i];
        multiply_add<T>(score[half], {a.x, 0, a.y, 0}, piece.x, piece.y);
        multiply_add<T>(score[half], {a.z, 0, a.w, 0}, piece.z, piece.w);
      }
    }
    if (cell * kCellKeys < first || (cell + 1) * kCellKeys > context) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = cell * kCellKeys + i / 2 * 8 + lane_of_four() * 2 + i % 2;
        if (key < first || key >= context) score[i / 2][i % 2] = -INFINITY;
      }
    }
    float* const a = score[0];
    float* const b = score[1];
    const float most = fmaxf(best_, quad_max(fmaxf(fmaxf(a[0], a[1]), fmaxf(b[0], b[1]))) * factor);
    const float base = most == -INFINITY ? 0.0f : most;
    shrink(power_of_two(best_ - base));
    best_ = most;
    a[0] = power_of_two(a[0] * factor - base);
    a[1] = power_of_two(a[1] * factor - base);
    b[0] = power_of_two(b[0] * factor - base);
    b[1] = power_of_two(b[1] * factor - base);
    sum_ += (a[0] + a[1]) + (b[0] + b[1]);
    weights[0] = pack_pair<T>(a[0], a[1]);
    weights[1] = 0;
    weights[2] = pack_pair<T>(b[0], b[1]);
    weights[3] = 0;
  }

  __device__ void add(const Values& values, const uint32_t (&weights)[4]) {
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
      add_words(i * 8, values.runs[0][i].x, values.runs[1][i].x, values.runs[2][i].x, values.runs[3][i].x, weights);
      add_words(i * 8 + 2, values.runs[0][i].y, values.runs[1][i].y, values.runs[2][i].y, values.runs[3][i].y, weights);
      add_words(i * 8 + 4, values.runs[0][i].z, values.runs[1][i].z, values.runs[2][i].z, values.runs[3][i].z, weights);
      add_words(i * 8 + 6, values.runs[0][i].w, values.runs[1][i].w, values.runs[2][i].w, values.runs[3][i].w, weights);
    }
  }

  /// As a part of split.cuh.
  __device__ void write_part(float* part) const {
    const int row = group_lane();
    const float total = quad_sum(sum_);
    if (row >= link_.group) return;
    if (lane_of_four() == 0) {
      part[row] = best_;
      part[kPartRows + row] = total;
    }
    // A lane has 8 components that lie side by side, twice in each run.
#pragma unroll
    for (int i = 0; i < kRuns; ++i) {
#pragma unroll
      for (int column = 0; column < 2; ++column) {
        const int component = (i * 8 + lane_of_four() * 2 + column) * 8;
        auto* const to = reinterpret_cast<float4*>(part + 2 * kPartRows + row * kDim + component);
        const auto value = [&](int j) { return out_[i * 8 + j][column]; };
        to[0] = make_float4(value(0), value(1), value(2), value(3));
        to[1] = make_float4(value(4), value(5), value(6), value(7));
      }
    }
  }

 private:
  static constexpr int kChunks = kDim * 2 / kChunkBytes;

  __device__ static int group_lane() { return static_cast<int>(threadIdx.x) % 32 / 4; }
  __device__ static int lane_of_four() { return static_cast<int>(threadIdx.x) % 4; }

  __device__ void shrink(float factor) {
    sum_ *= factor;
#pragma unroll
    for (auto& tile : out_) {
      tile[0] *= factor;
      tile[1] *= factor;
    }
  }

  /// Components `first` and the next of every run of 8, of two pairs of keys: words hold two components of a key, the
  /// tensor cores want two keys of a component.
  __device__ void add_words(int first, uint32_t key0, uint32_t key1, uint32_t key8, uint32_t key9,
                            const uint32_t (&weights)[4]) {
    constexpr unsigned kLower = 0x5410, kUpper = 0x7632;
    multiply_add<T>(out_[first], weights, __byte_perm(key0, key1, kLower), __byte_perm(key8, key9, kLower));
    multiply_add<T>(out_[first + 1], weights, __byte_perm(key0, key1, kUpper), __byte_perm(key8, key9, kUpper));
  }

  const AttentionLink& link_;
  int kv_head_;
  std::byte* queries_;
  /// [run * 8 + j]: component j of the 8 of each of its lanes; columns are lanes.
  float out_[kDim / 8][4];
  float best_;  ///< largest score times factor
  float sum_;   ///< of this lane's columns
};

/// What the token brings to a kv head: its queries and its key, turned, and its value. Rows of q first, then k and v.
template <typename T, int kDim>
class TokenRows {
 public:
  static constexpr int kChunks = kDim * 2 / kChunkBytes;
  using Chunk = typename Turn<T>::Chunk;

  __device__ TokenRows(const Link& link, const Exchange& exchange, int kv_head)
      : link_(link.attention),
        kv_head_(kv_head),
        head_pairs_(link.attention.pairs / 8),
        entries_(exchange.entries(link.x)) {}

  /// Into shared memory, by all threads. `page`: the head's part of the page that the token goes to, and which row;
  /// null: nowhere, or it is another block's to write.
  template <typename Heads>
  __device__ void fetch(std::byte* rows, std::byte* page, int page_row) const {
    constexpr int kRows = kMostGroup + 2;
    const Angles angles{.rows = link_.rope_rows,
                        .cos = link_.cos,
                        .sin = link_.sin,
                        .pairs = link_.pairs,
                        .interleaved = link_.interleaved};
    const int turned_row = angles.rows[0];
    // Two chunks, or one that has no partner.
    const int items = kChunks - head_pairs_;
    for (int i = thread_anew(); i < kRows * items; i += kRowThreads) {
      const int row = i / items, item = i % items;
      const bool is_value = row == kMostGroup + 1;
      if (is_value && item >= kChunks / 2) continue;
      const bool turned = !is_value && item < head_pairs_;
      const bool alone = !is_value && !turned;
      const int first = alone ? item + head_pairs_ : turned && link_.interleaved ? 2 * item : item;
      const int second = is_value ? item + kChunks / 2 : link_.interleaved ? first + 1 : first + head_pairs_;
      const Turn<T> turn(angles, turned_row, turned ? item : 0);  // looked up while q, k and v are still to come
      Chunk chunks[2]{};
      if (row < link_.group || row >= kMostGroup) load(row, first, alone ? first : second, chunks);
      if (turned) turn(chunks[0], chunks[1]);
      auto* const to = reinterpret_cast<Chunk*>(rows + row * Heads::kQueryStride);
      to[first] = chunks[0];
      if (!alone) to[second] = chunks[1];
      if (row < kMostGroup || page == nullptr) continue;
      const auto place = [&](int chunk) {
        return reinterpret_cast<Chunk*>(page) + (is_value ? kChunks * link_.block_size : 0) +
               kv_chunk_place(chunk, page_row, kChunks, link_.block_size);
      };
      *place(first) = chunks[0];
      if (!alone) *place(second) = chunks[1];
    }
  }

 private:
  __device__ void load(int row, int first, int second, Chunk (&chunks)[2]) const {
    // Heads of q, then of k, then of v.
    const int head =
        row < kMostGroup ? kv_head_ * link_.group + row : link_.kv_heads * (link_.group + row - kMostGroup) + kv_head_;
    const int places[2] = {head * kChunks + first, head * kChunks + second};
    uint4 bits[2];
    entries_.get(bits, link_.q, [&](int i) { return places[i] * 4; }, [](int) { return true; });
#pragma unroll
    for (int i = 0; i < 2; ++i) chunks[i] = reinterpret_cast<const Chunk&>(bits[i]);
  }

  const AttentionLink& link_;
  const int kv_head_;
  const int head_pairs_;
  const Entries entries_;
};

template <typename T, int kDim>
__device__ void run_attention(const Program& program, int link, const Exchange& exchange, const Room& room) {
  const Link& own = program.links[link];
  const AttentionLink& attention = own.attention;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const KeyRange range(attention);
  if (range.split >= range.splits) return;
  const int context = range.context, first = range.first, end = range.end, splits = range.splits, split = range.split;
  const int kv_head = range.kv_head;
  int cell = range.begin + warp;

  const int32_t* const table = attention.block_tables + attention.block_starts[0];
  const int64_t head_bytes = int64_t{4} * kDim * attention.block_size;
  const auto place_of_cell = [&](int at) {
    CellPlace place;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int key = at * kCellKeys + half * 8;
      const int block = key / attention.block_size;
      place.rows[half] = key - block * attention.block_size;
      place.pages[half] = attention.pages;
      if (key < context && key + 8 > first)
        place.pages[half] += table[block] * attention.block_bytes + kv_head * head_bytes;
    }
    return place;
  };
  // Keys and values that were there before the step are read while others still compute what this link needs.
  const int newest = context - 1;
  Heads8<T, kDim> heads(attention, kv_head, room.work);
  typename Heads8<T, kDim>::Keys keys;
  typename Heads8<T, kDim>::Values values;
  const int64_t slot = attention.slots[0];
  std::byte* const page =
      split == splits - 1 && slot >= 0
          ? attention.pages + slot / attention.block_size * attention.block_bytes + kv_head * head_bytes
          : nullptr;
  const TokenRows<T, kDim> token(own, exchange, kv_head);
  const float factor = attention.scale * kLog2e;
  const auto load = [&] {
    if (cell >= end) return;
    const CellPlace place = place_of_cell(cell);
    heads.load(keys, place, cell, first, newest);
    heads.load(values, place, cell, first, newest);
  };
  load();
  compute_barrier();  // nobody needs any more what lies in the rows' place
  token.template fetch<Heads8<T, kDim>>(room.work, page, static_cast<int>(slot % attention.block_size));
  compute_barrier();
  heads.start();
#pragma unroll 1
  while (cell < end) {
    if (newest / kCellKeys == cell) heads.add_newest(keys, values, cell, newest);
    uint32_t weights[4];
    heads.weigh(keys, cell, first, context, factor, weights);
    heads.add(values, weights);
    cell += kRowWarps;
    load();
  }
  compute_barrier();  // the queries' place is used for what follows
  const int part_floats = attention_part(kDim, attention.group);
  float* const of_warps = reinterpret_cast<float*>(room.work);
  heads.write_part(of_warps + warp * part_floats);
  compute_barrier();
  AttentionProblem problem;
  problem.out = attention.out;
  problem.out_head_stride = kDim;
  problem.sinks = attention.sinks;
  const PartOwner owner{.first_head = kv_head * attention.group, .rows = attention.group};
  const Team all{thread_anew(), kRowThreads};
  const auto tell = [&](int head, int component, uint2 four) {
    const int pair = (head * kDim + component) / 2;
    exchange.put(own, link, pair, four.x);
    exchange.put(own, link, pair + 1, four.y);
  };
  float* const parts = program.parts + int64_t{kv_head} * range.most_splits * part_floats;
  join<T, kDim, false>(
      all, owner, kRowWarps, [&](int part) -> const float* { return of_warps + part * part_floats; },
      splits == 1 ? nullptr : parts + split * part_floats, problem, tell);
  if (splits == 1) return;
  compute_barrier();
  if (threadIdx.x == 0) {
    unsigned* const arrivals = &program.arrivals[kv_head];
    const bool last = count_arrival(arrivals) + 1 == static_cast<unsigned>(splits);
    if (last) *arrivals = 0;
    *room.note = last ? 1 : 0;
  }
  compute_barrier();
  if (*room.note == 0) return;
  join<T, kDim, true>(
      all, owner, splits, [&](int part) -> const float* { return parts + part * part_floats; }, nullptr, problem, tell);
}

}  // namespace quire::gpu
