// What a warp of decode.cu does of rope_kv_write: it turns the queries of its (sequence, kv head) pair and, if it has
// the pair's last keys, the newest key, which it writes into the cache with its value and puts into the cell that it
// reads them from. Chunks of 16 bytes are turned as rope_chunks.cuh does it, to the same bits.
#pragma once

#include "backend/ops/fused.h"
#include "kernels_cuda/attention/cells.cuh"
#include "kernels_cuda/attention/problem.h"
#include "kernels_cuda/attention/rope_chunks.cuh"
#include "kernels_cuda/attention/split.cuh"
#include "kernels_cuda/common/divisor.cuh"

namespace quire::gpu {

/// The keys and values of a step's tokens, one of each sequence; their queries are the problem's.
template <typename T>
struct NewTokens {
  Heads<const T> k, v;
  Angles angles;
  const int64_t* slots;
  std::byte* pages;
};

template <typename T>
NewTokens<T> new_tokens_of(const RopeKvWriteArgs& args) {
  return {.k = heads_of<const T>(args.kv.k),
          .v = heads_of<const T>(args.kv.v),
          .angles = angles_of(args.rope),
          .slots = args.kv.slots,
          .pages = static_cast<std::byte*>(args.kv.kv.data)};
}

/// What a warp needs for its part of a pair.
struct PairRows {
  int token;
  int kv_head;
  int first_head;
  int num_queries;
  bool last;   ///< it has the pair's last keys, so that the newest key and its value are needed, too
  bool store;  ///< these go into the cache
};

/// Angles in shared memory, and rows: a pair's queries, and for two pairs the newest key and its value. Rows are asked
/// for a pair ahead: into the place of queries that are in registers by then, and beside a key that is still needed.
template <typename T, int kDim>
class TurnedRows {
 public:
  static constexpr int kChunks = Cell<kDim>::kChunks;
  /// Of 8 rows that follow each other, a chunk each lies in 8 different banks.
  static constexpr int kStride = (kChunks + 1) * kChunkBytes;
  static_assert(kChunks % 2 == 0);
  /// Cosines, then sines.
  static constexpr int kAnglesBytes = kDim * static_cast<int>(sizeof(float));

  __host__ __device__ static constexpr size_t bytes(int group) {
    return kAnglesBytes + static_cast<size_t>((group < kPartRows ? group : kPartRows) + 4) * kStride;
  }

  /// A lane has two chunks of a row that form pairs, or one that is not turned, the same of several rows.
  __device__ TurnedRows(const NewTokens<T>& tokens, const AttentionProblem& problem, const Divisor& block_size,
                        std::byte* memory)
      : tokens_(tokens),
        problem_(problem),
        block_size_(block_size),
        angles_(reinterpret_cast<float*>(memory)),
        rows_(memory + kAnglesBytes),
        head_pairs_(tokens.angles.pairs / kElements),
        rows_at_once_(32 / items()),
        first_row_(lane() / items()),
        item_(lane() % items()) {}

  /// Ask for the angles of a token, before q, k and v are there, too. `rope_row`: of the tables.
  __device__ void look_up(uint32_t rope_row) const {
    const int pairs = tokens_.angles.pairs, first = lane() * 4;
    if (first >= pairs) return;
    const int64_t from = int64_t{rope_row} * pairs + first;
    async_copy_16(angles_ + first, tokens_.angles.cos + from);
    async_copy_16(angles_ + pairs + first, tokens_.angles.sin + from);
  }

  /// Once q, k and v are there, and all lanes have the queries of the pair before in registers: ask for those of the
  /// next, and look up where its key goes.
  __device__ void ask(const PairRows& pair) {
    const T* const queries = static_cast<const T*>(problem_.q) + pair.token * problem_.q_token_stride;
    for_rows(pair, newest_ ^ 1, [&](int row, std::byte* to) {
      const bool is_value = row > pair.num_queries;
      const T* const from = row < pair.num_queries ? queries + (pair.first_head + row) * problem_.q_head_stride
                            : is_value             ? tokens_.v.at(pair.token, pair.kv_head)
                                                   : tokens_.k.at(pair.token, pair.kv_head);
      const Items own = items_of(is_value);
      if (own.first >= 0) async_copy_16(chunk_of(to, own.first), from + own.first * kElements);
      if (own.second >= 0) async_copy_16(chunk_of(to, own.second), from + own.second * kElements);
    });
    // Else cells come by such copies as well, and these are of one group with the next cell.
    if constexpr (kBulkCopies) async_copy_commit();
    slot_ = pair.last ? static_cast<int>(tokens_.slots[pair.token]) : -1;
  }

  /// Turn what was asked for last, and store the key and its value. Whether there is a key that belongs into a cell.
  __device__ bool turn(const PairRows& pair) {
    const int slot = slot_, in_page = max(slot, 0) % block_size_;
    std::byte* const head = tokens_.pages + max(slot, 0) / block_size_ * problem_.block_bytes +
                            pair.kv_head * problem_.head_bytes;  // of the page
    newest_ ^= 1;
    async_copy_wait<0>();
    __syncwarp();
    const Angles angles{.cos = angles_,
                        .sin = angles_ + tokens_.angles.pairs,
                        .pairs = tokens_.angles.pairs,
                        .interleaved = tokens_.angles.interleaved};
    const Turn<T> turn(angles, 0, is_turned() ? item_ : 0);
    for_rows(pair, newest_, [&](int row, std::byte* at) {
      const bool is_value = row > pair.num_queries;
      const Items own = items_of(is_value);
      if (!is_value && is_turned()) {
        Chunk a = *chunk_of(at, own.first), b = *chunk_of(at, own.second);
        turn(a, b);
        *chunk_of(at, own.first) = a;
        *chunk_of(at, own.second) = b;
      }
      if (row < pair.num_queries || !pair.store || slot < 0) return;
      auto* const to = reinterpret_cast<Chunk*>(head) + (is_value ? problem_.layout.values : 0);
      const auto copy = [&](int chunk) {
        if (chunk >= 0) to[kv_chunk_place(chunk, in_page, kChunks, block_size_)] = *chunk_of(at, chunk);
      };
      copy(own.first);
      copy(own.second);
    });
    __syncwarp();
    return slot >= 0;
  }

  /// For load_matrices(): chunk 2 * pair + `odd` of a query.
  __device__ uint32_t query_address(int pair, int row, int odd) const {
    return shared_address(chunk_of(rows_ + row * kStride, 2 * pair + odd));
  }

  /// Put the key and the value of the pair that was turned into their cell, which lies there as it was in the cache:
  /// row `row` of it.
  __device__ void add_newest(std::byte* cell, int row) const {
    if (lane() < kChunks) {
      auto* const to = reinterpret_cast<Chunk*>(cell) + kv_chunk_place(lane(), row, kChunks, kCellKeys);
      to[0] = *chunk_of(newest(newest_), lane());
      to[Cell<kDim>::kHalfBytes / kChunkBytes] = *chunk_of(newest(newest_) + kStride, lane());
    }
    fence_for_copies();  // the next cell that is copied to this place comes after
    __syncwarp();
  }

 private:
  static constexpr int kElements = kChunkBytes / sizeof(T);
  using Chunk = typename Turn<T>::Chunk;

  /// Chunks of a row; -1: none.
  struct Items {
    int first, second;
  };

  __device__ static int lane() { return static_cast<int>(threadIdx.x) % 32; }
  __device__ int items() const { return kChunks - head_pairs_; }
  __device__ bool is_turned() const { return item_ < head_pairs_; }

  __device__ Items items_of(bool is_value) const {
    if (is_value) return item_ < kChunks / 2 ? Items{item_, item_ + kChunks / 2} : Items{-1, -1};
    if (!is_turned()) return {item_ + head_pairs_, -1};
    return tokens_.angles.interleaved ? Items{2 * item_, 2 * item_ + 1} : Items{item_, item_ + head_pairs_};
  }

  __device__ static Chunk* chunk_of(std::byte* row, int chunk) { return reinterpret_cast<Chunk*>(row) + chunk; }

  /// A key, and behind it its value.
  __device__ std::byte* newest(int which) const {
    return rows_ + (min(problem_.group, kPartRows) + 2 * which) * kStride;
  }

  /// work(row, where it is) for this lane's rows: queries, then maybe the key and the value.
  template <typename Work>
  __device__ void for_rows(const PairRows& pair, int which, Work work) const {
    const int count = first_row_ < rows_at_once_ ? pair.num_queries + (pair.last ? 2 : 0) : 0;
    // In registers there would be no room for what is under way.
#pragma unroll 1
    for (int row = first_row_; row < count; row += rows_at_once_) {
      const int behind = row - pair.num_queries;
      work(row, behind < 0 ? rows_ + row * kStride : newest(which) + behind * kStride);
    }
  }

  const NewTokens<T>& tokens_;
  const AttentionProblem& problem_;
  const Divisor& block_size_;
  float* const angles_;
  std::byte* const rows_;
  const int head_pairs_;
  const int rows_at_once_, first_row_;
  const int item_;
  int newest_ = 0;  ///< of the two, that of the pair that was turned
  int slot_ = -1;   ///< of the key that was asked for; -1: none
};

}  // namespace quire::gpu
