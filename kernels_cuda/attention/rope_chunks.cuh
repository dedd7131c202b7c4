// rope_kv_write in whole chunks of 16 bytes: a thread turns two chunks of a head of q or k whose components form pairs,
// or copies one.
#pragma once

#include <cmath>
#include <cstdint>

#include "backend/ops/rope.h"
#include "kernels_cuda/attention/kv_page.cuh"
#include "kernels_cuda/common/numbers.cuh"

namespace quire::gpu {

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

inline Pages pages_of(const KvLayer& kv, const int64_t* slots) {
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
inline bool has_whole_chunks(const Tensor& tensor) {
  const int64_t element = dtype_bytes(tensor.dtype);
  return reinterpret_cast<uintptr_t>(tensor.data) % kChunkBytes == 0 &&
         tensor.strides[0] * element % kChunkBytes == 0 && tensor.strides[1] * element % kChunkBytes == 0 &&
         tensor.shape[2] * element % kChunkBytes == 0;
}

/// What is turned, by which angles.
struct Angles {
  const int32_t* rows;
  const float* cos;
  const float* sin;
  int pairs;  ///< R / 2
  bool interleaved;
};

inline Angles angles_of(const RopeArgs& args) {
  return {.rows = args.rows,
          .cos = args.cos.as<const float>(),
          .sin = args.sin.as<const float>(),
          .pairs = static_cast<int>(args.cos.shape[1]),
          .interleaved = args.layout == RopeLayout::kInterleaved};
}

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
  /// Rounded at the same places in all kernels, whatever the compiler would have fused.
  __device__ void turn(T& x, T& y, int i) const {
    const float real = to_float(x), imaginary = to_float(y);
    x = from_float<T>(fmaf(real, cos_[i], -(imaginary * sin_[i])));
    y = from_float<T>(fmaf(imaginary, cos_[i], real * sin_[i]));
  }

  bool interleaved_;
  alignas(sizeof(float4)) float cos_[kElements];
  alignas(sizeof(float4)) float sin_[kElements];
};

/// Items of a token: for each head of q and k its pairs of chunks, then for each head of k the chunks that are not
/// turned, then the chunks of v.
template <typename T>
struct RopeChunks {
  static constexpr int kElements = kChunkBytes / sizeof(T);
  using Chunk = typename Turn<T>::Chunk;

  Heads<T> q, k;
  Heads<const T> v;
  Angles angles;
  Pages pages;
  int q_heads, kv_heads;
  bool values_too;

  __host__ __device__ int head_pairs() const { return angles.pairs / kElements; }
  __host__ __device__ int rest_chunks() const { return pages.layout.key_chunks - 2 * head_pairs(); }
  __host__ __device__ int value_chunks() const { return pages.value_dim / kElements; }
  __host__ __device__ int token_items() const {
    return (q_heads + kv_heads) * head_pairs() + kv_heads * (rest_chunks() + (values_too ? value_chunks() : 0));
  }

  /// `wait()` returns once q, k and v are there.
  template <typename Wait>
  __device__ void compute(int64_t item, Wait&& wait) const {
    const int64_t token = item / token_items();
    int place = static_cast<int>(item % token_items());
    if (place < (q_heads + kv_heads) * head_pairs()) return turn_pair(token, place, wait);
    place -= (q_heads + kv_heads) * head_pairs();
    const bool is_key = place < kv_heads * rest_chunks();
    if (!is_key) place -= kv_heads * rest_chunks();
    const int per_head = is_key ? rest_chunks() : value_chunks();
    copy_chunk(token, place / per_head, is_key, (is_key ? 2 * head_pairs() : 0) + place % per_head, wait);
  }

 private:
  template <typename Wait>
  __device__ void copy_chunk(int64_t token, int head, bool is_key, int chunk, Wait&& wait) const {
    std::byte* const to = is_key ? pages.key(token, head, chunk) : pages.value(token, head, chunk);
    const T* const from = (is_key ? k.at(token, head) : v.at(token, head)) + chunk * kElements;
    wait();
    if (to != nullptr) *reinterpret_cast<Chunk*>(to) = *reinterpret_cast<const Chunk*>(from);
  }

  template <typename Wait>
  __device__ void turn_pair(int64_t token, int place, Wait&& wait) const {
    const int pair = place % head_pairs();
    const int head = place / head_pairs();
    const int first = angles.interleaved ? 2 * pair : pair;
    const int second = angles.interleaved ? 2 * pair + 1 : pair + head_pairs();
    T* const row = head < q_heads ? q.at(token, head) : k.at(token, head - q_heads);
    std::byte* const to_first = head < q_heads ? nullptr : pages.key(token, head - q_heads, first);
    std::byte* const to_second = head < q_heads ? nullptr : pages.key(token, head - q_heads, second);
    const Turn<T> turn(angles, angles.rows[token], pair);
    wait();
    Chunk a = *reinterpret_cast<const Chunk*>(row + first * kElements);
    Chunk b = *reinterpret_cast<const Chunk*>(row + second * kElements);
    turn(a, b);
    *reinterpret_cast<Chunk*>(row + first * kElements) = a;
    *reinterpret_cast<Chunk*>(row + second * kElements) = b;
    if (to_first == nullptr) return;
    *reinterpret_cast<Chunk*>(to_first) = a;
    *reinterpret_cast<Chunk*>(to_second) = b;
  }
};

}  // namespace quire::gpu
