// The rope op over the names of simd_*.h. `pairs` pairs are rotated, kLanes at a time.

void rotate_half(const float* x, float* out, const float* cos, const float* sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const int lanes = lanes_left(pairs - i);
    const Vec c = load_lanes(cos + i, lanes);
    const Vec s = load_lanes(sin + i, lanes);
    const Vec first = load_lanes(x + i, lanes);
    const Vec second = load_lanes(x + pairs + i, lanes);
    store_lanes(out + i, first * c - second * s, lanes);
    store_lanes(out + pairs + i, second * c + first * s, lanes);
  }
}

void rotate_interleaved(const float* x, float* out, const float* cos, const float* sin, int64_t pairs) {
  for (int64_t i = 0; i < pairs; i += kLanes) {
    const int lanes = lanes_left(pairs - i);
    const int low_lanes = lanes_left(2 * lanes);
    const int high_lanes = 2 * lanes - low_lanes;
    const float* const low = x + 2 * i;
    const float* const high = low + kLanes;
    const Vec c = load_lanes(cos + i, lanes);
    const Vec s = load_lanes(sin + i, lanes);
    Vec first, second;
    deinterleave(load_lanes(low, low_lanes), load_lanes(high, high_lanes), first, second);
    Vec a, b;
    interleave(first * c - second * s, second * c + first * s, a, b);
    store_lanes(out + 2 * i, a, low_lanes);
    store_lanes(out + 2 * i + kLanes, b, high_lanes);
  }
}
