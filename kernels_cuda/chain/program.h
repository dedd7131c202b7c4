// What the kernel of a chain computes, as data: links one behind the other, with one token each.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "kernels_cuda/gemm/row_product.h"

namespace quire::gpu {

/// rope_kv_write and the attention of its one query. q, k and v lie one behind the other, of each all heads. Turned, k
/// goes into the cache only, and q nowhere.
struct AttentionLink {
  const void* q;
  void* out;
  const int32_t* rope_rows;
  const float* cos;
  const float* sin;
  const int64_t* slots;
  std::byte* pages;
  const int32_t* context_lens;
  const int32_t* block_tables;
  const int32_t* block_starts;
  const float* sinks;
  int64_t block_bytes;
  int32_t block_size;
  int16_t kv_heads;
  int16_t group;
  int32_t window;
  float scale;
  int16_t pairs;
  bool interleaved;
};

/// Where what a link reads has been left by one before: entries of Program::exchange, from `entry` on, written by link
/// number `link`; -1: it lies in memory since before the chain.
struct Source {
  uint32_t entry = 0;
  int16_t link = -1;
};

struct Link {
  enum class Kind : int16_t { kProduct, kAttention };
  Kind kind;
  Source x;          ///< a product's row, or q, k and v one behind the other
  Source residual;   ///< of a product
  uint32_t out = 0;  ///< first entry that the link writes
  union {
    RowProduct product;
    AttentionLink attention;
  };
  Link() : kind(Kind::kProduct), product{} {}
};

/// Parameters of a kernel may take 32,764 bytes, with older toolkits 4096.
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int kMostLinks = 24;
constexpr size_t kMostParameterBytes = 4096;
#else
constexpr int kMostLinks = 180;
constexpr size_t kMostParameterBytes = 32764;
#endif

struct Program {
  int32_t num_links = 0;
  int32_t num_stages = 0;        ///< of the ring that weights come through
  int32_t room_bytes = 0;        ///< of shared memory for a row x, or for what warps tell each other about attention
  uint64_t* exchange = nullptr;  ///< what links tell each other; chain.cu says how
  unsigned* launches = nullptr;  ///< of programs, so far
  unsigned* claims = nullptr;    ///< [links] tiles claimed; like all counters zero before and after
  unsigned* ended = nullptr;     ///< blocks that have done all
  unsigned* arrivals = nullptr;  ///< [kv heads] blocks that have their part of a head's keys
  float* parts = nullptr;        ///< what they leave there
  Link links[kMostLinks];
};
static_assert(sizeof(Program) <= kMostParameterBytes);

/// Shared memory of a block, and how much of it goes to what.
constexpr int kChunkColumns = 1024;  ///< columns of a stage
constexpr int kTileLines = 8;        ///< rows of weights in a stage
/// Where a row of a stage begins: eight lanes that read four pieces of two rows, an even one and the next, find them in
/// different banks.
__host__ __device__ constexpr int line_begin(int line) {
  return line * kChunkColumns * 2 + (line + 1) / 2 * 64;
}
constexpr int kStageBytes = line_begin(kTileLines);
constexpr int kMostStages = 16;
/// Tiles that are summed or finished at a time.
constexpr int kSumSlots = 8;
constexpr int kSlotFloats = kRowWarps * kTileLines;
constexpr int kSumBytes = (kSumSlots * kSlotFloats + 2 * kRowWarps) * 4;
constexpr int kSignalBytes = kMostStages * (8 + 8 + 4) + kSumSlots * (3 * 8 + 4) + 16;

/// Stages of a block that are on their way at a time. What everybody waits for between links comes by the same ways as
/// weights, and behind those that were asked for before: with two a step takes 3 % longer, from four on 1 to 3 %.
constexpr int kMostArriving = 3;

/// Query heads of a kv head that are computed at once.
constexpr int kMostGroup = 8;
/// Numbers that a warp leaves of its keys: a part of attention/split.cuh with `group` rows.
__host__ __device__ constexpr int attention_part(int dim, int group) {
  return 2 * 16 + group * dim;
}
constexpr int attention_room(int dim, int group) {
  return kRowWarps * attention_part(dim, group) * 4;
}

/// Launch the kernel. `head_dim`: 64 or 128, of all attention in it.
void run_program(const Program& program, DType dtype, int head_dim, GpuStream& stream);

}  // namespace quire::gpu
