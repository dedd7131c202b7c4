// kv_write: one thread makes one 16-byte chunk of a page. rope_kv_write: one thread turns two chunks of a head of q or
// k whose components form pairs, or copies one chunk; where heads are not made of whole chunks, or types differ, one
// thread turns or copies one pair or one component. Both are limited by the launch at a few tokens, by memory at many.
#include <cstdint>

#include "kernels_cuda/attention/rope_chunks.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr int kThreads = 256;

dim3 blocks_for(int64_t items) {
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads));
}

__device__ int64_t own_item() {
  return int64_t{blockIdx.x} * kThreads + threadIdx.x;
}

/// A chunk's elements from `first` on, zeros behind the row's end.
template <typename T, typename Cache>
__device__ Vector<Cache, kChunkBytes / sizeof(Cache)> chunk_of(const T* row, int first, int size) {
  Vector<Cache, kChunkBytes / sizeof(Cache)> chunk;
#pragma unroll
  for (int i = 0; i < static_cast<int>(kChunkBytes / sizeof(Cache)); ++i) {
    chunk[i] = from_float<Cache>(first + i < size ? to_float(row[first + i]) : 0.0f);
  }
  return chunk;
}

template <typename T, typename Cache>
__global__ void __launch_bounds__(kThreads) kv_write_kernel(Heads<const T> k, Heads<const T> v, Pages pages, int heads,
                                                            bool values_too, bool whole_chunks, int64_t items) {
  wait_for_previous();
  let_next_start();
  const int64_t item = own_item();
  if (item >= items) return;
  constexpr int kElements = kChunkBytes / sizeof(Cache);
  const int key_items = heads * pages.layout.key_chunks;
  const int token_items = key_items + (values_too ? heads * pages.layout.value_chunks : 0);
  const int64_t token = item / token_items;
  int rest = static_cast<int>(item % token_items);
  const bool is_key = rest < key_items;
  if (!is_key) rest -= key_items;
  const int chunks = is_key ? pages.layout.key_chunks : pages.layout.value_chunks;
  const int head = rest / chunks, chunk = rest % chunks;
  std::byte* const to = is_key ? pages.key(token, head, chunk) : pages.value(token, head, chunk);
  if (to == nullptr) return;
  const T* const row = is_key ? k.at(token, head) : v.at(token, head);
  if (sizeof(T) == sizeof(Cache) && whole_chunks) {
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(row + chunk * kElements);
    return;
  }
  using Chunk = Vector<Cache, kElements>;
  *reinterpret_cast<Chunk*>(to) = chunk_of<T, Cache>(row, chunk * kElements, is_key ? pages.head_dim : pages.value_dim);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) rope_chunks_kernel(RopeChunks<T> chunks, int64_t items) {
  let_next_start();
  const int64_t item = own_item();
  if (item >= items) return wait_for_previous();
  // Angles and places are looked up while the kernel before still runs.
  chunks.compute(item, wait_for_previous);
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_pairs_kernel(Heads<T> q, Heads<T> k, Angles angles, int q_heads, int kv_heads, int64_t items) {
  wait_for_previous();
  const int64_t item = own_item();
  if (item >= items) return;
  const int pair = static_cast<int>(item % angles.pairs);
  const int head = static_cast<int>(item / angles.pairs % (q_heads + kv_heads));
  const int64_t token = item / angles.pairs / (q_heads + kv_heads);
  T* const row = head < q_heads ? q.at(token, head) : k.at(token, head - q_heads);
  T& x = row[angles.interleaved ? 2 * pair : pair];
  T& y = row[angles.interleaved ? 2 * pair + 1 : pair + angles.pairs];
  const int64_t angle = int64_t{angles.rows[token]} * angles.pairs + pair;
  const float real = to_float(x), imaginary = to_float(y), c = angles.cos[angle], s = angles.sin[angle];
  x = from_float<T>(real * c - imaginary * s);
  y = from_float<T>(imaginary * c + real * s);
}

void launch_kv_write(const KvWriteArgs& args, GpuStream& stream) {
  const Pages pages = pages_of(args.kv, args.slots);
  const int heads = args.kv.num_kv_heads;
  const bool values_too = !args.kv.values_in_keys;
  const int64_t items =
      args.k.shape[0] * heads * (pages.layout.key_chunks + (values_too ? pages.layout.value_chunks : 0));
  if (items == 0) return;
  const bool whole_chunks =
      args.k.dtype == args.kv.dtype && has_whole_chunks(args.k) && (!values_too || has_whole_chunks(args.v));
  with_type(args.k.dtype, [&](auto source) {
    using T = decltype(source);
    with_type(args.kv.dtype, [&](auto cache) {
      launch("kv_write", kv_write_kernel<T, decltype(cache)>, blocks_for(items), dim3(kThreads), 0, stream,
             heads_of<const T>(args.k), heads_of<const T>(args.v), pages, heads, values_too, whole_chunks, items);
    });
  });
}

}  // namespace

bool turns_in_chunks(const RopeKvWriteArgs& args) {
  const Tensor& k = args.kv.k;
  const int64_t elements = kChunkBytes / dtype_bytes(k.dtype);
  const auto aligned = [](const Tensor& table) { return reinterpret_cast<uintptr_t>(table.data) % kChunkBytes == 0; };
  return k.dtype == args.kv.kv.dtype && args.rope.cos.shape[1] % elements == 0 && has_whole_chunks(args.q) &&
         has_whole_chunks(k) && (args.kv.kv.values_in_keys || has_whole_chunks(args.kv.v)) && aligned(args.rope.cos) &&
         aligned(args.rope.sin);
}

void launch_rope_kv_write(const RopeKvWriteArgs& args, GpuStream& stream) {
  const Tensor& k = args.kv.k;
  const int64_t tokens = k.shape[0];
  const int q_heads = static_cast<int>(args.q.shape[1]), kv_heads = static_cast<int>(k.shape[1]);
  const Angles angles = angles_of(args.rope);
  if (tokens == 0) return;
  const bool in_chunks = turns_in_chunks(args);
  with_type(k.dtype, [&](auto type) {
    using T = decltype(type);
    if (!in_chunks) {
      const int64_t items = tokens * (q_heads + kv_heads) * angles.pairs;
      launch("rope_kv_write", rope_pairs_kernel<T>, blocks_for(items), dim3(kThreads), 0, stream, heads_of<T>(args.q),
             heads_of<T>(k), angles, q_heads, kv_heads, items);
      return;
    }
    const RopeChunks<T> chunks{.q = heads_of<T>(args.q),
                               .k = heads_of<T>(k),
                               .v = heads_of<const T>(args.kv.v),
                               .angles = angles,
                               .pages = pages_of(args.kv.kv, args.kv.slots),
                               .q_heads = q_heads,
                               .kv_heads = kv_heads,
                               .values_too = !args.kv.kv.values_in_keys};
    const int64_t items = tokens * chunks.token_items();
    launch("rope_kv_write", rope_chunks_kernel<T>, blocks_for(items), dim3(kThreads), 0, stream, chunks, items);
  });
  if (!in_chunks) launch_kv_write(args.kv, stream);
}

void kv_write(const KvWriteArgs& args, Stream& stream) {
  launch_kv_write(args, as_gpu(stream));
}

void rope_kv_write(const RopeKvWriteArgs& args, Stream& stream) {
  GpuStream& gpu = as_gpu(stream);
  if (!gpu.chain(args)) gpu.put_off(args);
}

}  // namespace quire::gpu
