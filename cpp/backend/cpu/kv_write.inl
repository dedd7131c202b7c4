// The kv_write op over the names of simd_*.h. Keys are scattered, one element per row of the page (kv_layout.h): a
// token's writes touch as many lines as the attention that follows reads anyway.

template <typename T>
void write_key(const float* k, T* page, const KvLayout& layout, int64_t head, int64_t slot, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    T rounded[kLanes];
    store(rounded, load_lanes(k + i, lanes));
    T* const column = page + layout.key(head, i, slot);
    for (int lane = 0; lane < lanes; ++lane) column[lane * layout.block_size] = rounded[lane];
  }
}

template <typename T>
void write_tokens(const KvWriteArgs& args, int64_t begin, int64_t end) {
  const KvLayout layout = kv_layout(args.kv);
  for (int64_t token = begin; token < end; ++token) {
    if (args.slots[token] < 0) continue;
    T* const page = kv_page<T>(args.kv, args.slots[token] / layout.block_size);
    const int64_t slot = args.slots[token] % layout.block_size;
    for (int64_t head = 0; head < args.kv.num_kv_heads; ++head) {
      const float* const k = args.k.as<const float>() + token * args.k.strides[0] + head * args.k.strides[1];
      const float* const v = args.v.as<const float>() + token * args.v.strides[0] + head * args.v.strides[1];
      write_key(k, page, layout, head, slot, args.kv.head_dim);
      T* const value = page + layout.value(head, slot);
      for (int64_t i = 0; i < args.kv.v_head_dim; i += kLanes) {
        const int lanes = lanes_left(args.kv.v_head_dim - i);
        store_lanes(value + i, load_lanes(v + i, lanes), lanes);
      }
    }
  }
}

void write_any(const KvWriteArgs& args, int64_t begin, int64_t end) {
  switch (args.kv.dtype) {
    case DType::kBFloat16: return write_tokens<BFloat16>(args, begin, end);
    case DType::kFloat16: return write_tokens<Float16>(args, begin, end);
    default: return write_tokens<float>(args, begin, end);
  }
}
