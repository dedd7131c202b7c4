// Walking rows whose length is no multiple of the vector, over the names of simd_*.h.

/// Lanes in use of the vector that starts `left` elements before the row's end.
inline int lanes_left(int64_t left) {
  return left < kLanes ? static_cast<int>(left) : kLanes;
}

/// load_first, quick for the whole vectors that most are.
template <typename T>
inline Vec load_lanes(const T* p, int lanes) {
  return lanes == kLanes ? load(p) : load_first(p, lanes);
}

template <typename T>
inline void store_lanes(T* p, Vec value, int lanes) {
  if (lanes == kLanes) {
    store(p, value);
  } else {
    store_first(p, value, lanes);
  }
}
