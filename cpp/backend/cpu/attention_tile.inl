// The two matrix products of attention over one span of keys, as register tiles over the names of simd_*.h.
//
//   scores[r, t] = sum_c q[r, c] * k[t, c]     lanes over keys
//   out[r, c]    = sum_t p[r, t] * v[t, c]     lanes over components
//
// kRows x kVectors sums stay in registers; per step kVectors vectors are read (widened to float32 on the way) and kRows
// floats broadcast. Each sum is one chain of fused multiply-adds, over components in the first product and over keys in
// rising order in the second, so its bits do not depend on the tile's shape. A key that a row does not see has p = 0
// and leaves the sum as it is. What limits: the multiply-add units from about 4 rows on, memory below.

// The namespace has set
//   kTileRows        rows of a chunk where keys and values are unpacked,
//   kPagedTileRows   most rows of a chunk that reads the cache's pages,
//   vectors_beside() vectors of keys or components beside so many rows.

constexpr int kScoreStride = kAttentionSpan + 16;  // floats; not a power of two, so that rows do not share cache sets

/// Lines that a step reads, so that fetching ahead keeps pace with it.
template <int kVectors, typename T>
constexpr int lines_per_step() {
  return std::max(1, kVectors * kLanes * static_cast<int>(sizeof(T)) / 64);
}

/// sums += rows x vectors, one step of either product. What there is less of is kept in registers.
template <int kRows, int kVectors, typename T>
inline void add_products(Vec (&sums)[kRows][kVectors], const float* rows, int64_t row_stride,
                         const T* const (&at)[kVectors], int64_t offset) {
  if constexpr (kRows < kVectors) {
    Vec row[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) row[r] = broadcast(rows[r * row_stride]);
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      const Vec vector = load(at[v] + offset);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) sums[r][v] = fma(row[r], vector, sums[r][v]);
    }
  } else {
    Vec vectors[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) vectors[v] = load(at[v] + offset);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec row = broadcast(rows[r * row_stride]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(row, vectors[v], sums[r][v]);
    }
  }
}

template <int kRows, int kVectors>
inline void clear(Vec (&sums)[kRows][kVectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sums[r][v] = broadcast(0.0f);
  }
}

template <int kRows, int kVectors>
inline void store_sums(const Vec (&sums)[kRows][kVectors], float* out, int64_t stride) {
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) store(out + r * stride + v * kLanes, sums[r][v]);
  }
}

/// kVectors panels of keys from `panel` on. q is [size][kRows].
template <int kRows, int kVectors, bool kAhead, typename T>
void score_tile(const float* q, const SpanView<T>& view, int panel, int64_t size, float* scores) {
  Vec sums[kRows][kVectors];
  clear(sums);
  const T* keys[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) keys[v] = view.keys[panel + v];
  const int64_t stride = view.key_stride;
  for (int64_t offset = 0; offset < size * stride; offset += stride, q += kRows) {
    add_products(sums, q, 1, keys, offset);
    if constexpr (kAhead) view.score_ahead->template fetch<lines_per_step<kVectors, T>()>();
  }
  store_sums(sums, scores + panel * kLanes, kScoreStride);
}

/// kVectors vectors of components from `vector` on, over the keys [begin, end) of the span. p is [kRows][kScoreStride].
template <int kRows, int kVectors, bool kAhead, typename T>
void value_tile(const float* p, const SpanView<T>& view, int vector, int begin, int end, float* out,
                int64_t out_stride) {
  Vec sums[kRows][kVectors];
  clear(sums);
  const int block_tokens = static_cast<int>(view.block_tokens);
  int block = begin / block_tokens;
  for (int token = begin; token < end; ++block) {
    const int block_begin = block * block_tokens;
    const int block_end = std::min(end, block_begin + block_tokens);
    const T* values[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) values[v] = view.values[block] + (vector + v) * view.vector_stride;
    int64_t offset = (token - block_begin) * view.token_stride;
    for (; token < block_end; ++token, offset += view.token_stride) {
      add_products(sums, p + token, kScoreStride, values, offset);
      if constexpr (kAhead) view.value_ahead->template fetch<lines_per_step<kVectors, T>()>();
    }
  }
  store_sums(sums, out + vector * kLanes, out_stride);
}

/// All panels of [panel, panel_end): as many at a time as there are, kVectors at most.
template <int kRows, int kVectors, bool kAhead, typename T>
void score_panels(const float* q, const SpanView<T>& view, int panel, int panel_end, int64_t size, float* scores) {
  for (; panel + kVectors <= panel_end; panel += kVectors) {
    score_tile<kRows, kVectors, kAhead>(q, view, panel, size, scores);
  }
  if constexpr (kVectors > 1) score_panels<kRows, kVectors / 2, kAhead>(q, view, panel, panel_end, size, scores);
}

template <int kRows, int kVectors, bool kAhead, typename T>
void value_vectors(const float* p, const SpanView<T>& view, int vector, int vector_end, int begin, int end, float* out,
                   int64_t out_stride) {
  for (; vector + kVectors <= vector_end; vector += kVectors) {
    value_tile<kRows, kVectors, kAhead>(p, view, vector, begin, end, out, out_stride);
  }
  if constexpr (kVectors > 1) {
    value_vectors<kRows, kVectors / 2, kAhead>(p, view, vector, vector_end, begin, end, out, out_stride);
  }
}

/// The two products for a chunk of rows.
template <typename T>
struct ChunkProducts {
  void (*scores)(const float* q, const SpanView<T>& view, int panel, int panel_end, int64_t size, float* scores);
  void (*values)(const float* p, const SpanView<T>& view, int vector, int vector_end, int begin, int end, float* out,
                 int64_t out_stride);
};

template <int kRows, bool kAhead, typename T>
constexpr ChunkProducts<T> chunk_products() {
  return {score_panels<kRows, vectors_beside(kRows), kAhead, T>,
          value_vectors<kRows, vectors_beside(kRows), kAhead, T>};
}

/// Entry r is for r + 1 rows.
template <typename T, int... kRow>
constexpr std::array<ChunkProducts<T>, sizeof...(kRow)> chunk_products_table(std::integer_sequence<int, kRow...>) {
  return {chunk_products<kRow + 1, true, T>()...};
}
