// The embed op over the names of simd_*.h.

template <typename T>
void embed_tokens(const EmbedArgs& args, int64_t begin, int64_t end) {
  const int64_t width = args.out.shape[1];
  const Vec scale = broadcast(args.scale);
  for (int64_t token = begin; token < end; ++token) {
    const T* const row = args.table.as<const T>() + int64_t{args.ids[token] + args.offset} * args.table.strides[0];
    float* const out = args.out.as<float>() + token * args.out.strides[0];
    for (int64_t i = 0; i < width; i += kLanes) {
      const int lanes = lanes_left(width - i);
      Vec value = load_lanes(row + i, lanes) * scale;
      if (args.accumulate) value = load_lanes(out + i, lanes) + value;
      store_lanes(out + i, value, lanes);
    }
  }
}

void embed_any(const EmbedArgs& args, int64_t begin, int64_t end) {
  switch (args.table.dtype) {
    case DType::kBFloat16: return embed_tokens<BFloat16>(args, begin, end);
    case DType::kFloat16: return embed_tokens<Float16>(args, begin, end);
    default: return embed_tokens<float>(args, begin, end);
  }
}
