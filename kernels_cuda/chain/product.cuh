// A product of a chain. A block takes tiles of 8 rows of the matrix (gated: 4 and their partners), the first by its
// number and then as it gets ahead with them, from a counter, since multiprocessors differ in how fast they read. A
// stage of the ring holds 1024 columns of a tile, of which each warp multiplies 128. Other warps add a tile's sums over
// those, in order, and do what follows. Which block has a tile changes nothing in them, and they are those of
// stream_rows.cu to the bit.
#pragma once

#include "kernels_cuda/chain/exchange.cuh"
#include "kernels_cuda/common/bulk_copy.cuh"

namespace quire::gpu {

/// Where the warps that multiply are: at a stage, and at a slot of sums.
struct Multiplying {
  Position stage;
  Position slot;
};

/// All tiles that the block gets of a product, whose x lies in shared memory.
template <typename T>
__device__ void multiply(const Program& program, int k, const Room& room, Multiplying& at) {
  const int thread = thread_anew();
  const int warp = thread / 32, lane = thread % 32;
  // As stream_rows.cu: a warp has 64 columns of every 512.
  constexpr int kRunColumns = 64, kRunStride = kRowWarps * kRunColumns;
  const int first_column = warp * kRunColumns + lane % 4 * 8;
  const T* const x = reinterpret_cast<const T*>(room.work) + first_column;
  const std::byte* const lines = room.stages + line_begin(lane / 4) + first_column * 2;
  const auto release = [&] {
    __syncwarp();
    if (lane == 0) barrier_arrive(room.free + at.stage.stage * 8);
    at.stage.advance(program.num_stages);
  };
  const auto begin_slot = [&](int tile) {
    barrier_wait(room.finished + at.slot.stage * 8, at.slot.parity ^ 1);  // at the first round passed at once
    if (thread != 0) return;
    room.slot_tiles[at.slot.stage] = tile;
    barrier_arrive(room.begun + at.slot.stage * 8);
  };
  const auto leave_slot = [&] {
    __syncwarp();
    if (lane == 0) barrier_arrive(room.summed + at.slot.stage * 8);
    at.slot.advance(kSumSlots);
  };
  while (true) {
    barrier_wait(room.full + at.stage.stage * 8, at.stage.parity);
    const int tile = room.tiles[at.stage.stage];
    if (tile < 0) break;
    begin_slot(tile);
    float acc[4] = {};
    for (int column = 0; column < k; column += kChunkColumns) {
      if (column > 0) barrier_wait(room.full + at.stage.stage * 8, at.stage.parity);
      const std::byte* const from = lines + at.stage.stage * kStageBytes;
#pragma unroll
      for (int run = 0; run < kChunkColumns; run += kRunStride) {
        if (column + run + warp * kRunColumns >= k) break;
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
    float* const sums = room.sums + at.slot.stage * kSlotFloats;
    if (lane % 4 == 0) sums[warp * kTileLines + lane / 4] = acc[0];
    leave_slot();
  }
  release();
  for (int finisher = 0; finisher < kFinishWarps; ++finisher) {
    begin_slot(-1);
    leave_slot();
  }
}

/// By each of the warps that finish tiles, the one with number `finisher`: all of its tiles of a product. (Unused: see
/// bring_weights().)
template <typename T>
[[maybe_unused]] __device__ void finish_tiles(int link, const Link& own, const Exchange& exchange, const Room& room,
                                              Position& slot) {
  const RowProduct& product = own.product;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int per_tile = units_per_tile(product);
  const Entries residuals = exchange.entries(own.residual);
  for (int tile = 0; tile >= 0;) {
    barrier_wait(room.begun + slot.stage * 8, slot.parity);
    tile = room.slot_tiles[slot.stage];
    const int unit = tile * per_tile + lane;
    const bool finishes = tile >= 0 && lane < per_tile && unit < product.units;
    // Asked for while the tile is still being summed.
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
    barrier_wait(room.summed + slot.stage * 8, slot.parity);
    float value = 0.0f;
    if (finishes) {
      const float* const sums = room.sums + slot.stage * kSlotFloats;
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
    __syncwarp();
    if (lane == 0) barrier_arrive(room.finished + slot.stage * 8);
    for (int i = 0; i < kFinishWarps; ++i) slot.advance(kSumSlots);
  }
}

template <typename T>
__device__ void run_product(const Program& program, int link, const Exchange& exchange, const Room& room,
                            Multiplying& at) {
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
      norm.make(x, room.norm_sums, compute_barrier, ExchangedRow{row, static_cast<const float*>(product.x), product.k});
    } else {
      look_ahead(product.k / 2);
      fetch_exchanged_row(row, product, room.work);
    }
    compute_barrier();
  }
  multiply<T>(program, product.k, room, at);
}

}  // namespace quire::gpu
