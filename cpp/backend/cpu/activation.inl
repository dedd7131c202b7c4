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

template <Activation kKind, ActivationForm kForm>
void activate_row(const ActivationRule& rule, const float* x, const float* other, float* out, int64_t size) {
  const Vec high = broadcast(activation_limit(rule));
  const Vec low = broadcast(-activation_limit(rule));
  const Vec offset = broadcast(rule.offset);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    Vec value = load_lanes(x + i, lanes);
    if constexpr (kForm == ActivationForm::kLimited) value = min(high, value);
    value = activate<kKind>(value);
    if constexpr (kForm == ActivationForm::kGated) value = value * load_lanes(other + i, lanes);
    if constexpr (kForm == ActivationForm::kLimited) {
      value = value * (min(high, max(low, load_lanes(other + i, lanes))) + offset);
    }
    store_lanes(out + i, value, lanes);
  }
}

template <Activation kKind>
ActivateRowFn activate_row_of(ActivationForm form) {
  switch (form) {
    case ActivationForm::kGated: return activate_row<kKind, ActivationForm::kGated>;
    case ActivationForm::kLimited: return activate_row<kKind, ActivationForm::kLimited>;
    default: return activate_row<kKind, ActivationForm::kPlain>;
  }
}
