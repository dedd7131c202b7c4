// A product of a chain. A block takes tiles of 8 rows of the matrix (gated: 4 and their partners), the first by its
// number and then as it gets ahead with them, from a counter, since multiprocessors differ in how fast they read. A
// stage of the ring holds 1024 columns of a tile, of which each warp multiplies 128; a tile's sums are added over the
// warps in order. Which block has a tile changes nothing in them, and they are those of stream_rows.cu to the bit.
#pragma once

#include "kernels_cuda/chain/exchange.cuh"
#include "kernels_cuda/common/bulk_copy.cuh"

namespace quire::gpu {

/// All tiles that the block gets of a product, whose x lies in shared memory.
template <typename T>
__device__ void multiply(const Program& program, int link, const Exchange& exchange, const Room& room, Position& at) {
  const Link& own = program.links[link];
  const RowProduct& product = own.product;
  const int thread = thread_anew();
  const int warp = thread / 32, lane = thread % 32;
  const int per_tile = units_per_tile(product);
  const Entries residuals = exchange.entries(own.residual);
  // As stream_rows.cu: a warp has 64 columns of every 512.
  constexpr int kRunColumns = 64, kRunStride = kRowWarps * kRunColumns;
  const int first_column = warp * kRunColumns + lane % 4 * 8;
  const T* const x = reinterpret_cast<const T*>(room.work) + first_column;
  const std::byte* const lines = room.stages + line_begin(lane / 4) + first_column * 2;
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
        residual_pair = load_relaxed(residual_at);
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
        while (static_cast<uint32_t>(entry() >> 32) != residuals.mark) {
          pause_between_polls();
          residual_pair = load_relaxed(residual_at);
        }
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
  const Link& own = program.links[link];
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

}  // namespace quire::gpu
