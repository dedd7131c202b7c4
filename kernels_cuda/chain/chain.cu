// A chain of ops of one token as one kernel. What limits it is the read of the weights, which hardly pauses: some warps
// of each block do nothing but ask for weights, as far ahead as shared memory holds, also over the end of an op. Until
// an op's first input is there, which takes microseconds, the next weights arrive. For that the ring must have run
// empty by the end of an op: those who multiply must be faster than memory, so that others do what follows a sum.
//
// How links follow each other is said in exchange.cuh, how each is computed in product.cuh and attention.cuh. All
// blocks must be there at once: the launch is a cooperative one.
#include "core/check.h"
#include "kernels_cuda/chain/attention.cuh"
#include "kernels_cuda/chain/product.cuh"
#include "kernels_cuda/common/bulk_copy.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {
namespace {

size_t shared_bytes(const Program& program) {
  return static_cast<size_t>(program.num_stages) * kStageBytes + static_cast<size_t>(program.room_bytes) + kSumBytes +
         kSignalBytes;
}

// The warps that ask for weights.

/// By a warp: have brought to the second-level cache what the links from `next` on, up to the next product, read of
/// memory beside weights: a read from there waits for all the weights that were asked for before it.
__device__ void prefetch_ahead(const Program& program, int next) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (; next < program.num_links; ++next) {
    const Link& link = program.links[next];
    if (link.kind == Link::Kind::kProduct) {
      if (!link.product.has_norm || link.product.norm_weight == nullptr) return;
      // Each block a few lines for all.
      constexpr int kLine = 32;
      for (int column = (static_cast<int>(blockIdx.x) + lane * static_cast<int>(gridDim.x)) * kLine;
           column < link.product.k; column += 32 * static_cast<int>(gridDim.x) * kLine) {
        prefetch_to_l2(link.product.norm_weight + column);
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
      prefetch_to_l2(attention.pages + block * attention.block_bytes + int64_t{range.kv_head} * head_bytes, head_bytes);
    }
  }
}

/// Of the threads that do.
__device__ inline void bring_barrier() {
  named_barrier<kBringThreads>(2);
}

/// Each of these warps brings some rows of every stage: a copy takes a warp some fifty cycles, a stage must not take
/// more than a few hundred. (Unused is what is compiled for older GPUs, where the kernel does nothing.)
[[maybe_unused]] __device__ void bring_weights(const Program& program, const Room& room) {
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
    if (warp == kBringWarps - 1 && i + kLinksAhead < program.num_links) bring_near(program.links[i + kLinksAhead]);
    if (program.links[i].kind != Link::Kind::kProduct) continue;
    const RowProduct& product = program.links[i].product;
    const int units = product.units;
    const int per_tile = units_per_tile(product);
    const int tiles = num_tiles(product);
    const int group = tiles_at_once(product);
    const int64_t line_bytes = int64_t{product.k} * 2;
    int tile = static_cast<int>(blockIdx.x) * group;
    for (int count = 0; tile < tiles;) {
      int next = 0;  // its answer is not needed before these tiles have been asked for
      if (warp == 0 && leads) next = static_cast<int>(gridDim.x + atomicAdd(&program.claims[i], 1u)) * group;
      for (const int end = min(tile + group, tiles); leads && tile < end; ++tile) {
        // A warp's lines are rows of the matrix that follow each other.
        const int first_line = warp * kLinesOfWarp;
        const int unit = tile * per_tile + first_line % per_tile;
        const int num_lines = max(min(units - unit, kLinesOfWarp), 0);
        const auto* from =
            static_cast<const std::byte*>(product.weight) + (unit + (first_line >= per_tile ? units : 0)) * line_bytes;
        for (int column = 0; column < product.k; column += kChunkColumns) {
          const auto bytes = static_cast<unsigned>(min(kChunkColumns, product.k - column) * 2);
          const uint32_t full = room.full + at.stage * 8;
          barrier_wait(room.free + at.stage * 8, at.parity ^ 1);  // at the first round passed at once
          keep_up();
          if (warp == 0) room.tiles[at.stage] = tile;
          barrier_expect(full, static_cast<unsigned>(num_lines) * bytes);
          const uint32_t to = shared_address(room.stages) + at.stage * kStageBytes;
#pragma unroll
          for (int line = 0; line < kLinesOfWarp; ++line) {
            if (line >= num_lines) break;
            bulk_copy(to + line_begin(first_line + line), from + line * line_bytes, bytes, full, policy);
          }
          from += kChunkColumns * 2;
          at.advance(program.num_stages);
        }
      }
      if (warp == 0 && leads) room.claimed[count % 2] = next;
      bring_barrier();
      tile = room.claimed[count++ % 2];
      if (count == 1 && warp == kBringWarps - 1) prefetch_ahead(program, i + 1);
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

template <typename T, int kDim>
__global__ void __launch_bounds__(kThreads, 1) chain_kernel(const __grid_constant__ Program program) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  QUIRE_DYNAMIC_SHARED(std::byte, shared);
  const Room room(shared, program);
  if (static_cast<int>(threadIdx.x) < program.num_stages) {
    barrier_init(room.full + threadIdx.x * 8, kBringWarps);
    barrier_init(room.free + threadIdx.x * 8, kRowWarps);
  }
  if (static_cast<int>(threadIdx.x) < kSumSlots) {
    barrier_init(room.begun + threadIdx.x * 8, 1);
    barrier_init(room.summed + threadIdx.x * 8, kRowWarps);
    barrier_init(room.finished + threadIdx.x * 8, 1);
  }
  // By all before the barrier, behind which another block may be the last and count this launch.
  const Exchange exchange(program);
  fence_for_copies();
  __syncthreads();
  if (threadIdx.x >= kRowThreads + kBringThreads) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    give_registers<kOtherRegisters>();
#endif
    Position slot{.stage = static_cast<int>(threadIdx.x - kRowThreads - kBringThreads) / 32};
    for (int link = 0; link < program.num_links; ++link) {
      const Link& own = program.links[link];
      if (own.kind == Link::Kind::kProduct) finish_tiles<T>(link, own, exchange, room, slot);
    }
    return;
  }
  if (threadIdx.x >= kRowThreads) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    give_registers<kOtherRegisters>();
#endif
    return bring_weights(program, room);
  }
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  take_registers<kComputeRegisters>();
#endif
  Multiplying at;
#pragma unroll 1
  for (int link = 0; link < program.num_links; ++link) {
    switch (program.links[link].kind) {
      case Link::Kind::kProduct: run_product<T>(program, link, exchange, room, at); break;
      case Link::Kind::kAttention: run_attention<T, kDim>(program, link, exchange, room); break;
    }
  }
  exchange.end();
#endif
}

template <typename T, int kDim>
void run(const Program& program, GpuStream& stream) {
  const auto kernel = chain_kernel<T, kDim>;
  static OncePerDevice prepare;
  prepare([&] { allow_shared_memory(kernel, stream.device().shared_memory_per_block); });
  check(vendor::launch_together(kernel, dim3(static_cast<unsigned>(stream.device().num_multiprocessors)),
                                dim3(kThreads), shared_bytes(program), stream.handle(), program),
        "a chain of ops");
}

}  // namespace

void run_program(const Program& program, DType dtype, int head_dim, GpuStream& stream) {
  QUIRE_CHECK(head_dim == 64 || head_dim == 128, "head_dim=", head_dim);
  if (dtype == DType::kBFloat16) {
    head_dim == 64 ? run<BFloat, 64>(program, stream) : run<BFloat, 128>(program, stream);
  } else {
    head_dim == 64 ? run<Half, 64>(program, stream) : run<Half, 128>(program, stream);
  }
}

}  // namespace quire::gpu
