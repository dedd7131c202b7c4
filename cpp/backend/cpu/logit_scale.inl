// The logit_scale op over the names of simd_*.h and simd_math.inl.

void scale_piece(float* x, int64_t size, float scale, float softcap) {
  const Vec factor = broadcast(scale);
  const Vec cap = broadcast(softcap);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    Vec value = load_lanes(x + i, lanes) * factor;
    if (softcap > 0.0f) value = cap * tanh(value / cap);
    store_lanes(x + i, value, lanes);
  }
}
