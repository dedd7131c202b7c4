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

  template <typename T>
  const T* page(int64_t key) const {
    return kv_page<const T>(*kv, block_table[(first_key + key) / layout.block_size]);
  }
  int64_t slot(int64_t key) const { return (first_key + key) % layout.block_size; }
};

/// One panel of keys whose blocks may end within the panel.
template <typename T>
void unpack_broken_panel(const SpanSource& source, int panel_key, float* out) {
  const int64_t size = source.kv->head_dim;
  std::fill_n(out, size * kLanes, 0.0f);
  const int end = std::min(source.end, panel_key + kLanes);
  for (int key = std::max(source.begin, panel_key); key < end;) {
    const int64_t slot = source.slot(key);
    const int count = static_cast<int>(std::min<int64_t>(end - key, source.layout.block_size - slot));
    const T* const keys = source.page<T>(key) + source.layout.key(source.kv_head, 0, slot);
    for (int64_t i = 0; i < size; ++i) {
      store_first(out + i * kLanes + (key - panel_key), load_first(keys + i * source.layout.block_size, count), count);
    }
    key += count;
  }
}

template <typename T>
void unpack_keys(const SpanSource& source, float* out) {
  const int64_t size = source.kv->head_dim;
  const bool whole_panels = source.layout.block_size % kLanes == 0;
  for (int key = source.begin / kLanes * kLanes; key < source.end; key += kLanes) {
    float* const panel = out + key * size;
    if (!whole_panels) {
      unpack_broken_panel<T>(source, key, panel);
      continue;
    }
    const T* const keys = source.page<T>(key) + source.layout.key(source.kv_head, 0, source.slot(key));
    for (int64_t i = 0; i < size; ++i) store(panel + i * kLanes, load(keys + i * source.layout.block_size));
  }
}

template <typename T>
void unpack_values(const SpanSource& source, float* out) {
  const int64_t stride = source.layout.value_stride;
  for (int key = source.begin; key < source.end; ++key) {
    const T* const values = source.page<T>(key) + source.layout.value(source.kv_head, source.slot(key));
    float* const row = out + key * kLanes;
    for (int64_t i = 0; i < stride; i += kLanes) store(row + i / kLanes * kUnpackedVectorStride, load(values + i));
  }
}

template <typename T>
SpanView<float> unpack_span(const SpanSource& source, float* keys, float* values) {
  unpack_keys<T>(source, keys);
  unpack_values<T>(source, values);
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
  for (int block = source.begin / block_size; block * block_size < source.end; ++block) {
    const T* const page = source.page<T>(int64_t{block} * block_size);
    view.values[block] = page + source.layout.value(source.kv_head, 0);
    for (int slot = 0; slot < block_size; slot += kLanes) {
      view.keys[(block * block_size + slot) / kLanes] = page + source.layout.key(source.kv_head, 0, slot);
    }
  }
  view.key_stride = block_size;
  view.block_tokens = block_size;
  view.token_stride = source.layout.value_stride;
  view.vector_stride = kLanes;
  return view;
}
