// The norm op over the names of simd_*.h. Each row is read twice (rms) or three times (layer) from the first-level
// cache. A sum's order depends on the row's length alone: vector i of the row goes to the partial sum i % 4, and the
// rest of a row is a vector padded with zeros.

/// Sum of term(vector, lanes in use) over the row.
template <typename Term>
float sum_over_row(const float* x, int64_t size, Term term) {
  constexpr int kSums = 4;
  Vec sums[kSums] = {broadcast(0.0f), broadcast(0.0f), broadcast(0.0f), broadcast(0.0f)};
  int64_t i = 0;
  for (; i + kSums * kLanes <= size; i += kSums * kLanes) {
#pragma GCC unroll 4
    for (int s = 0; s < kSums; ++s) sums[s] = term(load(x + i + s * kLanes), first_lanes(kLanes), sums[s]);
  }
  for (int s = 0; i < size; i += kLanes, ++s) {
    const int lanes = lanes_left(size - i);
    sums[s] = term(load_first(x + i, lanes), first_lanes(lanes), sums[s]);
  }
  return reduce_add((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

void norm_row(const NormRow& row, const NormArgs& args) {
  const float size = static_cast<float>(row.size);
  float mean = 0.0f;
  float variance = 0.0f;
  if (args.kind == NormKind::kLayer) {
    mean = sum_over_row(row.x, row.size, [](Vec x, Mask, Vec sum) { return sum + x; }) / size;
    const Vec center = broadcast(mean);
    variance = sum_over_row(row.x, row.size,
                            [center](Vec x, Mask used, Vec sum) {
                              const Vec difference = select(used, x - center, broadcast(0.0f));
                              return fma(difference, difference, sum);
                            }) /
               size;
  } else {
    variance = sum_over_row(row.x, row.size, [](Vec x, Mask, Vec sum) { return fma(x, x, sum); }) / size;
  }
  const Vec center = broadcast(mean);
  const Vec factor = broadcast(1.0f / std::sqrt(variance + args.eps));
  for (int64_t i = 0; i < row.size; i += kLanes) {
    const int lanes = lanes_left(row.size - i);
    Vec value = (load_lanes(row.x + i, lanes) - center) * factor;
    if (row.weight != nullptr) value = value * load_lanes(row.weight + i, lanes);
    if (row.bias != nullptr) value = value + load_lanes(row.bias + i, lanes);
    store_lanes(row.out + i, value, lanes);
  }
}
