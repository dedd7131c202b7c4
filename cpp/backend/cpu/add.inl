// The add and clip ops over the names of simd_*.h. NaN stays NaN.

void add_piece(const float* x, float factor, float* out, int64_t size) {
  const Vec factors = broadcast(factor);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    store_lanes(out + i, fma(factors, load_lanes(x + i, lanes), load_lanes(out + i, lanes)), lanes);
  }
}

void clip_piece(float* x, float limit, int64_t size) {
  const Vec high = broadcast(limit);
  const Vec low = broadcast(-limit);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    store_lanes(x + i, min(high, max(low, load_lanes(x + i, lanes))), lanes);
  }
}
