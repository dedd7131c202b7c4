// The activation op over the names of simd_*.h and simd_math.inl. NaN stays NaN.

template <Activation kKind>
Vec activate(Vec x) {
  const Vec one = broadcast(1.0f);
  const Vec zero = broadcast(0.0f);
  if constexpr (kKind == Activation::kSilu) {
    return x / (one + exp(zero - x));
  } else if constexpr (kKind == Activation::kGeluQuick) {
    return x / (one + exp(broadcast(-1.702f) * x));
  } else if constexpr (kKind == Activation::kGelu) {
    return broadcast(0.5f) * x * (one + erf(x * broadcast(0.707106781f)));
  } else if constexpr (kKind == Activation::kGeluTanh) {
    const Vec inner = fma(broadcast(0.044715f) * x * x, x, x);
    return broadcast(0.5f) * x * (one + tanh(broadcast(0.797884561f) * inner));
  } else {
    const Vec positive = max(zero, x);
    return kKind == Activation::kRelu2 ? positive * positive : positive;
  }
}

/// `gate` null: plain.
template <Activation kKind>
void activate_row(const float* x, const float* gate, float* out, int64_t size) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    Vec value = activate<kKind>(load_lanes(x + i, lanes));
    if (gate != nullptr) value = value * load_lanes(gate + i, lanes);
    store_lanes(out + i, value, lanes);
  }
}

using ActivateRowFn = void (*)(const float* x, const float* gate, float* out, int64_t size);

ActivateRowFn activate_row_of(Activation kind) {
  switch (kind) {
    case Activation::kGelu: return activate_row<Activation::kGelu>;
    case Activation::kGeluTanh: return activate_row<Activation::kGeluTanh>;
    case Activation::kGeluQuick: return activate_row<Activation::kGeluQuick>;
    case Activation::kRelu: return activate_row<Activation::kRelu>;
    case Activation::kRelu2: return activate_row<Activation::kRelu2>;
    default: return activate_row<Activation::kSilu>;
  }
}
