// kv_write: one thread makes one 16-byte chunk of a page. rope_kv_write: one thread turns two chunks of a head of q or
// k whose components form pairs, or copies one chunk; where heads are not made of whole chunks, or types differ, one
// thread turns or copies one pair or one component. Both are limited by the launch at a few tokens, by memory at many.
#include <cstdint>

#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/common/numbers.cuh"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr int kThreads = 256;

/// Where the keys and values of tokens go.
struct Pages {
  std::byte* data;
  int64_t block_bytes;
  const int64_t* slots;
  KvLayout layout;
  int head_dim;
  int value_dim;

  /// Chunk of the key (of the value) of a head; null if the token goes nowhere.
  __device__ std::byte* key(int64_t token, int head, int chunk) const {
    return at(token, head, chunk, 0, layout.key_chunks);
  }
  __device__ std::byte* value(int64_t token, int head, int chunk) const {
    return at(token, head, chunk, layout.values, layout.value_chunks);
  }

 private:
  __device__ std::byte* at(int64_t token, int head, int chunk, int first, int chunks) const {
    const int64_t slot = slots[token];
    if (slot < 0) return nullptr;
    const int row = static_cast<int>(slot % layout.block_size);
    const int64_t place =
        int64_t{head} * layout.head_chunks + first + kv_chunk_place(chunk, row, chunks, layout.block_size);
    return data + slot / layout.block_size * block_bytes + place * kChunkBytes;
  }
};

Pages pages_of(const KvLayer& kv, const int64_t* slots) {
  return {.data = static_cast<std::byte*>(kv.data),
          .block_bytes = kv.block_bytes,
          .slots = slots,
          .layout = kv_layout(kv),
          .head_dim = kv.head_dim,
          .value_dim = kv.v_head_dim};
}

/// A [T, heads, dim] tensor whose rows may be strided.
template <typename T>
struct Heads {
  T* data;
  int64_t token_stride;
  int64_t head_stride;
  __device__ T* at(int64_t token, int head) const { return data + token * token_stride + head * head_stride; }
};

template <typename T>
Heads<T> heads_of(const Tensor& tensor) {
  return {.data = tensor.as<T>(), .token_stride = tensor.strides[0], .head_stride = tensor.strides[1]};
}

/// Whether every head begins at a chunk's border.
bool has_whole_chunks(const Tensor& tensor) {
  const int64_t element = dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % kChunkBytes == 0 &&
         tensor.strides[0] * element % kChunkBytes == 0 && tensor.strides[1] * element % kChunkBytes == 0 &&
         tensor.shape[2] * element % kChunkBytes == 0;
}

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

/// What is turned, by which angles.
struct Angles {
  const int32_t* rows;
  const float* cos;
  const float* sin;
  int pairs;  ///< R / 2
  bool interleaved;
};

/// Turns two chunks of a head of one token: a and b are the pairs (half layout), or neighbours inside each are.
template <typename T>
class Turn {
 public:
  static constexpr int kElements = kChunkBytes / sizeof(T);
  using Chunk = Vector<T, kElements>;

  __device__ Turn(const Angles& angles, int64_t row, int chunk) : interleaved_(angles.interleaved) {
    const int64_t first = row * angles.pairs + chunk * kElements;
#pragma unroll
    for (int i = 0; i < kElements; i += 4) {
      *reinterpret_cast<float4*>(cos_ + i) = *reinterpret_cast<const float4*>(angles.cos + first + i);
      *reinterpret_cast<float4*>(sin_ + i) = *reinterpret_cast<const float4*>(angles.sin + first + i);
    }
  }

  __device__ void operator()(Chunk& a, Chunk& b) const {
    if (interleaved_) {
#pragma unroll
      for (int i = 0; i < kElements / 2; ++i) {
        turn(a[2 * i], a[2 * i + 1], i);
        turn(b[2 * i], b[2 * i + 1], kElements / 2 + i);
      }
    } else {
#pragma unroll
      for (int i = 0; i < kElements; ++i) turn(a[i], b[i], i);
    }
  }

 private:
  __device__ void turn(T& x, T& y, int i) const {
    const float real = to_float(x), imaginary = to_float(y);
    x = from_float<T>(real * cos_[i] - imaginary * sin_[i]);
    y = from_float<T>(imaginary * cos_[i] + real * sin_[i]);
  }

  bool interleaved_;
  float cos_[kElements], sin_[kElements];
};

/// Items of a token: for each head of q and k its pairs of chunks, then for each head of k the chunks that are not
/// turned, then the chunks of v. Angles and places are looked up while the kernel before still runs.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    rope_chunks_kernel(Heads<T> q, Heads<T> k, Heads<const T> v, Angles angles, Pages pages, int q_heads, int kv_heads,
                       bool values_too, int64_t items) {
  let_next_start();
  const int64_t item = own_item();
  if (item >= items) return wait_for_previous();
  constexpr int kElements = kChunkBytes / sizeof(T);
  using Chunk = typename Turn<T>::Chunk;
  const int head_pairs = angles.pairs / kElements;
  const int turned_items = (q_heads + kv_heads) * head_pairs;
  const int rest_chunks = pages.layout.key_chunks - 2 * head_pairs;
  const int value_chunks = pages.value_dim / kElements;
  const int token_items = turned_items + kv_heads * rest_chunks + (values_too ? kv_heads * value_chunks : 0);
  const int64_t token = item / token_items;
  int place = static_cast<int>(item % token_items);
  if (place < turned_items) {
    const int pair = place % head_pairs;
    const int head = place / head_pairs;
    const int first = angles.interleaved ? 2 * pair : pair;
    const int second = angles.interleaved ? 2 * pair + 1 : pair + head_pairs;
    T* const row = head < q_heads ? q.at(token, head) : k.at(token, head - q_heads);
    std::byte* const to_first = head < q_heads ? nullptr : pages.key(token, head - q_heads, first);
    std::byte* const to_second = head < q_heads ? nullptr : pages.key(token, head - q_heads, second);
    const Turn<T> turn(angles, angles.rows[token], pair);
    wait_for_previous();
    Chunk a = *reinterpret_cast<const Chunk*>(row + first * kElements);
    Chunk b = *reinterpret_cast<const Chunk*>(row + second * kElements);
    turn(a, b);
    *reinterpret_cast<Chunk*>(row + first * kElements) = a;
    *reinterpret_cast<Chunk*>(row + second * kElements) = b;
    if (to_first == nullptr) return;
    *reinterpret_cast<Chunk*>(to_first) = a;
    *reinterpret_cast<Chunk*>(to_second) = b;
    return;
  }
  place -= turned_items;
  const bool is_key = place < kv_heads * rest_chunks;
  if (!is_key) place -= kv_heads * rest_chunks;
  const int head = place / (is_key ? rest_chunks : value_chunks);
  const int chunk = is_key ? 2 * head_pairs + place % rest_chunks : place % value_chunks;
  std::byte* const to = is_key ? pages.key(token, head, chunk) : pages.value(token, head, chunk);
  const T* const from = (is_key ? k.at(token, head) : v.at(token, head)) + chunk * kElements;
  wait_for_previous();
  if (to != nullptr) *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
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

}  // namespace

void kv_write(const KvWriteArgs& args, Stream& stream) {
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
      launch("kv_write", kv_write_kernel<T, decltype(cache)>, blocks_for(items), dim3(kThreads), 0, as_gpu(stream),
             heads_of<const T>(args.k), heads_of<const T>(args.v), pages, heads, values_too, whole_chunks, items);
    });
  });
}

void rope_kv_write(const RopeKvWriteArgs& args, Stream& stream) {
  const Tensor& k = args.kv.k;
  const int64_t tokens = k.shape[0];
  const int q_heads = static_cast<int>(args.q.shape[1]), kv_heads = static_cast<int>(k.shape[1]);
  const Angles angles{.rows = args.rope.rows,
                      .cos = args.rope.cos.as<const float>(),
                      .sin = args.rope.sin.as<const float>(),
                      .pairs = static_cast<int>(args.rope.cos.shape[1]),
                      .interleaved = args.rope.layout == RopeLayout::kInterleaved};
  if (tokens == 0) return;
  const Pages pages = pages_of(args.kv.kv, args.kv.slots);
  const bool values_too = !args.kv.kv.values_in_keys;
  const int elements = static_cast<int>(kChunkBytes / dtype_bytes(k.dtype));
  const auto aligned = [](const float* table) { return reinterpret_cast<uintptr_t>(table) % kChunkBytes == 0; };
  const bool in_chunks = k.dtype == args.kv.kv.dtype && angles.pairs % elements == 0 && has_whole_chunks(args.q) &&
                         has_whole_chunks(k) && (!values_too || has_whole_chunks(args.kv.v)) && aligned(angles.cos) &&
                         aligned(angles.sin);
  with_type(k.dtype, [&](auto type) {
    using T = decltype(type);
    if (!in_chunks) {
      const int64_t items = tokens * (q_heads + kv_heads) * angles.pairs;
      launch("rope_kv_write", rope_pairs_kernel<T>, blocks_for(items), dim3(kThreads), 0, as_gpu(stream),
             heads_of<T>(args.q), heads_of<T>(k), angles, q_heads, kv_heads, items);
      return;
    }
    const int head_pairs = angles.pairs / elements;
    const int token_items = (q_heads + kv_heads) * head_pairs + kv_heads * (pages.layout.key_chunks - 2 * head_pairs) +
                            (values_too ? kv_heads * pages.value_dim / elements : 0);
    const int64_t items = tokens * token_items;
    launch("rope_kv_write", rope_chunks_kernel<T>, blocks_for(items), dim3(kThreads), 0, as_gpu(stream),
           heads_of<T>(args.q), heads_of<T>(k), heads_of<const T>(args.kv.v), angles, pages, q_heads, kv_heads,
           values_too, items);
  });
  if (!in_chunks) kv_write(args.kv, stream);
}

}  // namespace quire::gpu
