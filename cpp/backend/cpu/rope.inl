// The rope op over the names of simd_*.h. `pairs` pairs are rotated, kLanes at a time.

void rotate_half(float* x, const float* cos, const float* sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const int lanes = lanes_left(pairs - i);
    const Vec c = load_lanes(cos + i, lanes);
    const Vec s = load_lanes(sin + i, lanes);
    const Vec first = load_lanes(x + i, lanes);
    const Vec second = load_lanes(x + pairs + i, lanes);
    store_lanes(x + i, first * c - second * s, lanes);
    store_lanes(x + pairs + i, second * c + first * s, lanes);
  }
}

void rotate_interleaved(float* x, const float* cos, const float* sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const int lanes = lanes_left(pairs - i);
    const int low_lanes = lanes_left(2 * lanes);
    const int high_lanes = 2 * lanes - low_lanes;
    float* const low = x + 2 * i;
    float* const high = low + kLanes;
    const Vec c = load_lanes(cos + i, lanes);
    const Vec s = load_lanes(sin + i, lanes);
    Vec first, second;
    deinterleave(load_lanes(low, low_lanes), load_lanes(high, high_lanes), first, second);
    Vec a, b;
    interleave(first * c - second * s, second * c + first * s, a, b);
    store_lanes(low, a, low_lanes);
    store_lanes(high, b, high_lanes);
  }
}

void rope_tokens(const RopeArgs& args, int64_t begin, int64_t end) {
  const int64_t pairs = args.cos.shape[1];
  for (int64_t token = begin; token < end; ++token) {
    const float* const cos = args.cos.as<const float>() + args.rows[token] * args.cos.strides[0];
    const float* const sin = args.sin.as<const float>() + args.rows[token] * args.sin.strides[0];
    for (int64_t head = 0; head < args.x.shape[1]; ++head) {
      float* const x = args.x.as<float>() + token * args.x.strides[0] + head * args.x.strides[1];
      if (args.layout == RopeLayout::kHalf) {
        rotate_half(x, cos, sin, pairs);
      } else {
        rotate_interleaved(x, cos, sin, pairs);
      }
    }
  }
}
