// One span of keys and values made ready for the products, over the names of simd_*.h.
//
// Many rows: unpacked to float32 once and used by all rows of the tile, keys as [panel][component][kLanes keys], values
// as [vector][key][kLanes components]. Few rows: read where they lie. Slots at and beyond the tile's last key are never
// used; pages without any key of the tile are not touched.

/// From one vector of components to the next: a whole span and a little, so that they do not share cache sets.
constexpr int64_t kUnpackedVectorStride = (kAttentionSpan + 2) * kLanes;

/// The pages of one sequence and kv head, and the part of one span that is wanted.
struct SpanSource {
  const KvLayer* kv = nullptr;
  KvLayout layout;
  const int32_t* block_table = nullptr;
  int64_t kv_head = 0;
  int64_t first_key = 0;  ///< of the span, absolute
  int begin = 0;          ///< wanted keys, relative to the span
  int end = 0;

  /// Call body(page, slot, key, count) for every run of wanted keys in one page.
  template <typename T, typename Body>
  void for_each_run(Body body) const {
    const int block_size = static_cast<int>(layout.block_size);
    int slot = static_cast<int>((first_key + begin) % block_size);
    const int32_t* block = block_table + (first_key + begin) / block_size;
    for (int key = begin; key < end; ++block) {
      const int count = std::min(end - key, block_size - slot);
      body(kv_page<const T>(*kv, *block), slot, key, count);
      key += count;
      slot = 0;
    }
  }
};

/// Keys [key, key + count) of a page into the panels that they belong to.
template <typename T>
void unpack_keys(const SpanSource& source, const T* page, int slot, int key, int count, float* out) {
  const int64_t size = source.kv->head_dim;
  while (count > 0) {
    const int lane = key % kLanes;
    const int lanes = std::min(count, kLanes - lane);
    const T* const keys = page + source.layout.key(source.kv_head, 0, slot);
    float* const panel = out + (key - lane) * size + lane;
    // Whole panels but for the last one, where blocks are no smaller than a panel.
    if (lanes == kLanes) {
      for (int64_t i = 0; i < size; ++i) store(panel + i * kLanes, load(keys + i * source.layout.block_size));
    } else {
      for (int64_t i = 0; i < size; ++i) {
        store_first(panel + i * kLanes, load_first(keys + i * source.layout.block_size, lanes), lanes);
      }
    }
    key += lanes;
    slot += lanes;
    count -= lanes;
  }
}

template <typename T>
void unpack_values(const SpanSource& source, const T* page, int slot, int key, int count, float* out) {
  const int64_t stride = source.layout.value_stride;
  const T* values = page + source.layout.value(source.kv_head, slot);
  for (float* row = out + key * kLanes; count > 0; --count, row += kLanes, values += stride) {
    for (int64_t i = 0; i < stride; i += kLanes) store(row + i / kLanes * kUnpackedVectorStride, load(values + i));
  }
}

template <typename T>
SpanView<float> unpack_span(const SpanSource& source, float* keys, float* values) {
  source.for_each_run<T>([&](const T* page, int slot, int key, int count) {
    unpack_keys(source, page, slot, key, count, keys);
    unpack_values(source, page, slot, key, count, values);
  });
  SpanView<float> view;
  for (int panel = 0; panel < kAttentionSpan / kLanes; ++panel) {
    view.keys[panel] = keys + panel * kLanes * source.kv->head_dim;
  }
  view.key_stride = kLanes;
  view.values[0] = values;
  view.block_tokens = kAttentionSpan;
  view.token_stride = kLanes;
  view.vector_stride = kUnpackedVectorStride;
  return view;
}

/// Whether a span can be read from the pages: panels do not cross blocks, nor blocks spans.
bool pages_hold_panels(const KvLayer& kv) {
  return kv.block_size % kLanes == 0 && kAttentionSpan % kv.block_size == 0;
}

template <typename T>
SpanView<T> view_span(const SpanSource& source) {
  SpanView<T> view;
  const int block_size = static_cast<int>(source.layout.block_size);
  int block = source.begin / block_size;
  int panel = block * block_size / kLanes;
  source.for_each_run<T>([&](const T* page, int, int, int) {
    view.values[block++] = page + source.layout.value(source.kv_head, 0);
    for (int slot = 0; slot < block_size; slot += kLanes) {
      view.keys[panel++] = page + source.layout.key(source.kv_head, 0, slot);
    }
  });
  view.key_stride = block_size;
  view.block_tokens = block_size;
  view.token_stride = source.layout.value_stride;
  view.vector_stride = kLanes;
  return view;
}

template <typename T>
void fetch_keys(const SpanSource& source, Ahead& ahead) {
  const int64_t bytes = source.layout.key_elements * static_cast<int64_t>(sizeof(T));
  source.for_each_run<T>(
      [&](const T* page, int, int, int) { ahead.add(page + source.layout.key(source.kv_head, 0, 0), bytes); });
}

template <typename T>
void fetch_values(const SpanSource& source, Ahead& ahead) {
  const int64_t bytes = source.layout.value_stride * source.layout.block_size * static_cast<int64_t>(sizeof(T));
  source.for_each_run<T>(
      [&](const T* page, int, int, int) { ahead.add(page + source.layout.value(source.kv_head, 0), bytes); });
}

template <typename T>
void fetch_pages(const SpanSource& source, Ahead& ahead) {
  const int64_t bytes = source.layout.head_elements * static_cast<int64_t>(sizeof(T));
  source.for_each_run<T>(
      [&](const T* page, int, int, int) { ahead.add(page + source.layout.key(source.kv_head, 0, 0), bytes); });
}
