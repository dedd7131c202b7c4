// A chain of ops of one token as one kernel. What limits it is the read of the weights, which hardly pauses: some warps
// of each block do nothing but ask for weights, as far ahead as shared memory holds, also over the end of an op. Until
// an op's first input is there, which takes microseconds, the next weights arrive.
//
// Products: a block takes tiles of 8 rows of the matrix (gated: 4 and their partners), the first by its number and then
// as it gets ahead with them, from a counter, since multiprocessors differ in how fast they read. A stage of the ring
// holds 1024 columns of a tile, of which each warp multiplies 128; a tile's sums are added over the warps in exchange.
// Which block has a tile changes nothing in them, and they are those of stream_rows.cu to the bit.
//
// Attention: keys are read by the lanes that multiply them, 16 bytes each, in the order that the tensor cores want
// their operands in, which may be any as long as both have the same; pairs of keys that values need side by side are
// made of two registers by moving bytes. The warps of a block share the keys of a kv head, and so do several blocks if
// there are many. Keys of earlier tokens are read before the token's own q, k and v are there.
//
// All blocks must be there at once: the launch is a cooperative one.
#include <cmath>

#include "core/check.h"
#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/rope_chunks.cuh"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/chain/program.h"
#include "kernels_cuda/common/bulk_copy.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/row_product.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

/// Warps that ask for weights, and rows of a stage that each of them asks for.
constexpr int kBringWarps = 4;
constexpr int kBringThreads = kBringWarps * 32;
constexpr int kLinesOfWarp = kTileLines / kBringWarps;
constexpr int kThreads = kRowThreads + kBringThreads;

/// A block's shared memory.
struct Room {
  std::byte* stages;
  std::byte* work;  ///< a row x; or what warps tell each other about attention
  float* sums;      ///< of the warps, for two tiles in turn
  uint32_t full;    ///< barriers: a stage holds what it should
  uint32_t free;    ///< nobody reads it any more
  int* tiles;       ///< which tile a stage is of; -1: there is none, the op ends here
  int* claimed;     ///< [2] the tiles that come next
  int* note;        ///< of one thread to the others

  __device__ Room(std::byte* shared, const Program& program)
      : stages(shared),
        work(stages + program.num_stages * kStageBytes),
        sums(reinterpret_cast<float*>(work + program.room_bytes)),
        full(shared_address(sums) + kSumBytes),
        free(full + kMostStages * 8),
        tiles(reinterpret_cast<int*>(reinterpret_cast<std::byte*>(sums) + kSumBytes + kMostStages * 16)),
        claimed(tiles + kMostStages),
        note(claimed + 2),
        links_(reinterpret_cast<Link*>(reinterpret_cast<std::byte*>(sums) + kSumBytes + kSignalBytes)) {}

  /// What the parameters say of a link. Where they lie they are read at the pace of memory that is busy with weights.
  __device__ const Link& link(int i) const { return links_[i]; }

  /// By all threads, before a barrier.
  __device__ void fetch_links(const Program& program) const {
    static_assert(sizeof(Link) % 8 == 0 && offsetof(Program, links) % 8 == 0);
    const auto from = reinterpret_cast<uint64_t>(&program.links);
    auto* const to = reinterpret_cast<uint64_t*>(links_);
    const int words = program.num_links * static_cast<int>(sizeof(Link) / 8);
    for (int i = static_cast<int>(threadIdx.x); i < words; i += static_cast<int>(blockDim.x)) {
      // As memory: as parameters, lanes would read one after the other.
      asm volatile("ld.u64 %0, [%1];" : "=l"(to[i]) : "l"(from + static_cast<uint64_t>(i) * 8));
    }
  }

 private:
  Link* links_;
};

size_t shared_bytes(const Program& program) {
  return static_cast<size_t>(program.num_stages) * kStageBytes + static_cast<size_t>(program.room_bytes) + kSumBytes +
         kSignalBytes + static_cast<size_t>(program.num_links) * sizeof(Link);
}

/// A stage, as those who fill the ring and those who empty it go round.
struct Position {
  int stage = 0;
  unsigned parity = 0;
  __device__ void advance(int num_stages) {
    if (++stage < num_stages) return;
    stage = 0;
    parity ^= 1;
  }
};

__device__ inline int units_per_tile(const RowProduct& product) {
  return product.rule.gated ? kTileLines / 2 : kTileLines;
}

__device__ inline int num_tiles(const RowProduct& product) {
  return (product.units + units_per_tile(product) - 1) / units_per_tile(product);
}

/// Tiles that a block takes at a time: copies of so many are under way no less long than it takes to claim the next
/// ones.
__device__ inline int tiles_at_once(const RowProduct& product) {
  constexpr int kColumns = 4096;
  return max(kColumns / product.k, 1);
}

/// Of the threads that compute.
__device__ inline void compute_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kRowThreads) : "memory");
}

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

// The warps that ask for weights.

/// By a warp: have brought to the second-level cache what the links from `next` on, up to the next product, read of
/// memory beside weights: a read from there waits for all the weights that were asked for before it.
__device__ void prefetch_ahead(const Program& program, const Room& room, int next) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (; next < program.num_links; ++next) {
    const Link& link = room.link(next);
    if (link.kind == Link::Kind::kProduct) {
      if (!link.product.has_norm || link.product.norm_weight == nullptr) return;
      // Each block a few lines for all.
      constexpr int kLine = 32;
      for (int column = (static_cast<int>(blockIdx.x) + lane * static_cast<int>(gridDim.x)) * kLine;
           column < link.product.k; column += 32 * static_cast<int>(gridDim.x) * kLine) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(link.product.norm_weight + column));
      }
      return;
    }
    const AttentionLink& attention = link.attention;
    const KeyRange range(attention);
    // The first cells of each warp, where they are one piece of memory.
    const int cell = range.begin + lane;
    if (range.split < range.splits && cell < range.end && attention.block_size == kCellKeys) {
      const int block = attention.block_tables[attention.block_starts[0] + cell];
      const int head_bytes = static_cast<int>(attention.block_bytes / attention.kv_heads) & ~15;
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(attention.pages + block * attention.block_bytes +
                                                                      int64_t{range.kv_head} * head_bytes),
                   "r"(head_bytes)
                   : "memory");
    }
  }
}

/// Of the threads that do.
__device__ inline void bring_barrier() {
  asm volatile("bar.sync 2, %0;" ::"n"(kBringThreads) : "memory");
}

/// Each of these warps brings some rows of every stage: a copy takes a warp some fifty cycles, a stage must not take
/// more than a few hundred.
__device__ void bring_weights(const Program& program, const Room& room) {
  const int warp = static_cast<int>(threadIdx.x - kRowThreads) / 32;
  const bool leads = threadIdx.x % 32 == 0;
  const uint64_t policy = read_once_policy();
  Position at;
  Position arriving;  // the oldest stage that has been asked for and has not been seen to be there
  int num_arriving = 0;
  const auto keep_up = [&] {
    if (num_arriving < kMostArriving) {
      ++num_arriving;
      return;
    }
    barrier_wait(room.full + arriving.stage * 8, arriving.parity);
    arriving.advance(program.num_stages);
  };
  for (int i = 0; i < program.num_links; ++i) {
    if (room.link(i).kind != Link::Kind::kProduct) continue;
    const RowProduct& product = room.link(i).product;
    const int units = product.units;
    const int per_tile = units_per_tile(product);
    const int tiles = num_tiles(product);
    const int group = tiles_at_once(product);
    int tile = static_cast<int>(blockIdx.x) * group;
    for (int count = 0; tile < tiles;) {
      int next = 0;  // its answer is not needed before these tiles have been asked for
      if (warp == 0 && leads) next = static_cast<int>(gridDim.x + atomicAdd(&program.claims[i], 1u)) * group;
      for (const int end = min(tile + group, tiles); leads && tile < end; ++tile) {
        const uint16_t* lines[kLinesOfWarp];
        unsigned num_lines = 0;
#pragma unroll
        for (int line = 0; line < kLinesOfWarp; ++line) {
          const int own = warp * kLinesOfWarp + line;
          const int unit = tile * per_tile + own % per_tile;
          const int row = unit + (own >= per_tile ? units : 0);
          lines[line] =
              unit < units ? static_cast<const uint16_t*>(product.weight) + int64_t{row} * product.k : nullptr;
          num_lines += unit < units ? 1 : 0;
        }
        for (int column = 0; column < product.k; column += kChunkColumns) {
          const auto bytes = static_cast<unsigned>(min(kChunkColumns, product.k - column) * 2);
          const uint32_t full = room.full + at.stage * 8;
          barrier_wait(room.free + at.stage * 8, at.parity ^ 1);  // at the first round passed at once
          keep_up();
          if (warp == 0) room.tiles[at.stage] = tile;
          barrier_expect(full, num_lines * bytes);
          const uint32_t to = shared_address(room.stages) + at.stage * kStageBytes + warp * kLinesOfWarp * kLineBytes;
#pragma unroll
          for (int line = 0; line < kLinesOfWarp; ++line) {
            if (lines[line] != nullptr) bulk_copy(to + line * kLineBytes, lines[line] + column, bytes, full, policy);
          }
          at.advance(program.num_stages);
        }
      }
      if (warp == 0 && leads) room.claimed[count % 2] = next;
      bring_barrier();
      tile = room.claimed[count++ % 2];
      if (count == 1 && warp == kBringWarps - 1) prefetch_ahead(program, room, i + 1);
    }
    if (leads) {
      barrier_wait(room.free + at.stage * 8, at.parity ^ 1);
      keep_up();  // the mark counts as a stage, too
      if (warp == 0) room.tiles[at.stage] = -1;
      barrier_arrive(room.full + at.stage * 8);
      at.advance(program.num_stages);
    }
    bring_barrier();
  }
}

// The warps that compute.

// How links follow each other. What a link computes goes to memory, and once more to the exchange, in entries of 8
// bytes: a float32 number or two of 16 bits, and the mark of the link and the launch. Whoever reads an entry sees by
// its mark whether it has been written, so that nobody waits for anybody else's writes to have arrived everywhere: a
// fence costs microseconds while weights stream in. Each tensor has its own entries, which the next link that writes it
// overwrites. By then all who needed them have read them: every link reads all that the one before has computed, so
// what a link writes depends on every part of all links before it, and blocks that have no part in a link do not read.

/// The entries that a thread reads, and their mark.
struct Entries {
  const ulonglong2* at = nullptr;  ///< null: what is wanted lies in memory
  uint32_t mark = 0;

  __device__ static ulonglong2 load(const ulonglong2* from) {
    ulonglong2 pair;
    asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(pair.x), "=l"(pair.y) : "l"(from) : "memory");
    return pair;
  }
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
        raw[i][0] = load(at + first_of(i) / 2);
        raw[i][1] = load(at + first_of(i) / 2 + 1);
      }
      complete = true;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (!has(i)) continue;
        complete &= marked(raw[i][0]) && marked(raw[i][1]);
        values[i] = {static_cast<uint32_t>(raw[i][0].x), static_cast<uint32_t>(raw[i][0].y),
                     static_cast<uint32_t>(raw[i][1].x), static_cast<uint32_t>(raw[i][1].y)};
      }
    }
  }

  /// By a warp, before all threads ask for all `count` entries: wait until some of them are there. That is most of the
  /// waiting, and leaves the memory's time to others.
  __device__ void look_ahead(int count) const {
    const int entry = static_cast<int>(int64_t{count} * (threadIdx.x % 32) / 32) & ~1;
    while (!marked(load(at + entry / 2))) {
    }
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
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(program_.exchange + written.out + i), "l"(entry)
                 : "memory");
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
__device__ void fetch_exchanged_row(const Entries& entries, const RowProduct& product, std::byte* to) {
  constexpr int kHeld = 4;
  const int k = product.k;
  for (int first = static_cast<int>(threadIdx.x) * 8; first < k; first += kHeld * kRowThreads * 8) {
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

/// All tiles that the block gets of a product, whose x lies in shared memory.
template <typename T>
__device__ void multiply(const Program& program, int link, const Exchange& exchange, const Room& room, Position& at) {
  const Link& own = room.link(link);
  const RowProduct& product = own.product;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int per_tile = units_per_tile(product);
  const Entries residuals = exchange.entries(own.residual);
  // As stream_rows.cu: a warp has 64 columns of every 512.
  constexpr int kRunColumns = 64, kRunStride = kRowWarps * kRunColumns;
  const int first_column = warp * kRunColumns + lane % 4 * 8;
  const T* const x = reinterpret_cast<const T*>(room.work) + first_column;
  const std::byte* const lines = room.stages + lane / 4 * kLineBytes + first_column * 2;
  const auto release = [&] {
    __syncwarp();
    if (lane == 0) barrier_arrive(room.free + at.stage * 8);
    at.advance(program.num_stages);
  };
  for (int count = 0;; ++count) {
    barrier_wait(room.full + at.stage * 8, at.parity);
    const int tile = room.tiles[at.stage];
    if (tile < 0) break;
    const int unit = tile * per_tile + lane;
    const bool finishes = warp == count % kRowWarps && lane < per_tile && unit < product.units;
    // Asked for now, looked at when the tile is done.
    const bool adds = finishes && product.residual != nullptr;
    const auto* const residual_at = residuals.at + unit / 2;
    ulonglong2 residual_pair{};
    float residual = 0.0f;
    if (adds) {
      if (residuals.at != nullptr) {
        residual_pair = Entries::load(residual_at);
      } else {
        residual = residual_of(product, unit, 0);
      }
    }
    float acc[4] = {};
    for (int column = 0; column < product.k; column += kChunkColumns) {
      if (column > 0) barrier_wait(room.full + at.stage * 8, at.parity);
      const std::byte* const from = lines + at.stage * kStageBytes;
#pragma unroll
      for (int run = 0; run < kChunkColumns; run += kRunStride) {
        if (column + run + warp * kRunColumns >= product.k) break;
#pragma unroll
        for (int piece = run; piece < run + kRunColumns; piece += 32) {
          const uint4 a = *reinterpret_cast<const uint4*>(from + piece * 2);
          const uint4 row = *reinterpret_cast<const uint4*>(x + column + piece);
          multiply_add<T>(acc, {a.x, 0, a.y, 0}, row.x, row.y);
          multiply_add<T>(acc, {a.z, 0, a.w, 0}, row.z, row.w);
        }
      }
      release();
    }
    // All eight columns of the tensor cores' product are the one token.
    float* const sums = room.sums + count % 2 * kRowWarps * kTileLines;
    if (lane % 4 == 0) sums[warp * kTileLines + lane / 4] = acc[0];
    compute_barrier();
    if (warp != count % kRowWarps) continue;
    float value = 0.0f;
    if (finishes) {
      const auto sum_of = [&](int line) {
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kRowWarps; ++w) sum += sums[w * kTileLines + line];
        return sum;
      };
      if (adds && residuals.at != nullptr) {
        const auto entry = [&] { return unit % 2 == 0 ? residual_pair.x : residual_pair.y; };
        while (static_cast<uint32_t>(entry() >> 32) != residuals.mark) residual_pair = Entries::load(residual_at);
        residual = __uint_as_float(static_cast<uint32_t>(entry()));
      }
      value = finish<T>(product, unit, 0, sum_of(lane), product.rule.gated ? sum_of(lane + per_tile) : 0.0f, residual);
    }
    if (product.out_type == OutType::kFloat32) {
      if (finishes) exchange.put(own, link, unit, __float_as_uint(value));
    } else {
      const float neighbour = __shfl_down_sync(kFullWarp, value, 1);
      if (finishes && unit % 2 == 0) exchange.put(own, link, unit / 2, pack_pair<T>(value, neighbour));
    }
  }
  release();
}

template <typename T>
__device__ void run_product(const Program& program, int link, const Exchange& exchange, const Room& room,
                            Position& at) {
  const Link& own = room.link(link);
  const RowProduct& product = own.product;
  // A block without tiles must not read x: nobody waits for it before overwriting that.
  if (static_cast<int>(blockIdx.x) * tiles_at_once(product) < num_tiles(product)) {
    const Entries row = exchange.entries(own.x);
    T* const x = reinterpret_cast<T*>(room.work);
    const auto look_ahead = [&](int count) {
      if (row.at != nullptr && threadIdx.x < 32) row.look_ahead(count);
      compute_barrier();
    };
    if (product.has_norm) {
      const RowNorm norm(product);
      look_ahead(product.k);
      norm.make(x, room.sums, compute_barrier, ExchangedRow{row, static_cast<const float*>(product.x), product.k});
    } else {
      look_ahead(product.k / 2);
      fetch_exchanged_row(row, product, room.work);
    }
    compute_barrier();
  }
  multiply<T>(program, link, exchange, room, at);
}

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

  /// Of the queries in shared memory, in bytes from head to head: see kLineBytes.
  static constexpr int kQueryStride = kDim * 2 + 64;

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
    for (int i = static_cast<int>(threadIdx.x); i < kRows * items; i += kRowThreads) {
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
  const Link& own = room.link(link);
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
  constexpr int kPartFloats = kAttentionPart<kDim>;
  float* const of_warps = reinterpret_cast<float*>(room.work);
  heads.write_part(of_warps + warp * kPartFloats);
  compute_barrier();
  AttentionProblem problem;
  problem.out = attention.out;
  problem.out_head_stride = kDim;
  problem.sinks = attention.sinks;
  const PartOwner owner{.first_head = kv_head * attention.group, .rows = attention.group};
  const Team all{static_cast<int>(threadIdx.x), kRowThreads};
  const auto tell = [&](int head, int component, uint2 four) {
    const int pair = (head * kDim + component) / 2;
    exchange.put(own, link, pair, four.x);
    exchange.put(own, link, pair + 1, four.y);
  };
  float* const parts = program.parts + int64_t{kv_head} * range.most_splits * kPartFloats;
  join<T, kDim, false>(
      all, owner, kRowWarps, [&](int part) -> const float* { return of_warps + part * kPartFloats; },
      splits == 1 ? nullptr : parts + split * kPartFloats, problem, tell);
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
      all, owner, splits, [&](int part) -> const float* { return parts + part * kPartFloats; }, nullptr, problem, tell);
}

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1) chain_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) std::byte shared[];
  const Room room(shared, program);
  if (static_cast<int>(threadIdx.x) < program.num_stages) {
    barrier_init(room.full + threadIdx.x * 8, kBringWarps);
    barrier_init(room.free + threadIdx.x * 8, kRowWarps);
  }
  room.fetch_links(program);
  fence_for_copies();
  __syncthreads();
  if (threadIdx.x >= kRowThreads) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    give_registers<40>();
#endif
    return bring_weights(program, room);
  }
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  take_registers<232>();
#endif
  const Exchange exchange(program);
  Position at;
#pragma unroll 1
  for (int link = 0; link < program.num_links; ++link) {
    switch (room.link(link).kind) {
      case Link::Kind::kProduct: run_product<T>(program, link, exchange, room, at); break;
      case Link::Kind::kAttention: run_attention<T, kDim>(program, link, exchange, room); break;
    }
  }
  exchange.end();
#endif
}

template <typename T, int kDim>
void run(const Program& program, const GpuStream& stream) {
  const auto kernel = chain_kernel<T, kDim>;
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, stream.device().shared_memory_per_block); });
  check(vendor::launch_together(kernel, dim3(static_cast<unsigned>(stream.device().num_multiprocessors)),
                                dim3(kThreads), shared_bytes(program), stream.handle(), program),
        "a chain of ops");
}

}  // namespace

void run_program(const Program& program, DType dtype, int head_dim, const GpuStream& stream) {
  QUIRE_CHECK(head_dim == 64 || head_dim == 128, "head_dim=", head_dim);
  if (dtype == DType::kBFloat16) {
    head_dim == 64 ? run<BFloat, 64>(program, stream) : run<BFloat, 128>(program, stream);
  } else {
    head_dim == 64 ? run<Half, 64>(program, stream) : run<Half, 128>(program, stream);
  }
}

}  // namespace quire::gpu
