// The passes of sampling over the names of simd_*.h and simd_math.inl. Lanes beyond the row's end count as minus
// infinity.

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline Vec load_logits(const float* x, int lanes) {
  if (lanes == kLanes) return load(x);
  return select(first_lanes(lanes), load_first(x, lanes), broadcast(-kInfinity));
}

ChunkSum sum_chunk(const float* x, int64_t size, float scale, float* group_best) {
  ChunkSum chunk{.best = -kInfinity, .sum = 0.0f, .finite = true};
  Mask bad = no_lanes();
  for (int64_t begin = 0; begin < size; begin += kSampleGroup) {
    const int64_t end = std::min(size, begin + kSampleGroup);
    Vec best = broadcast(-kInfinity);
    for (int64_t i = begin; i < end; i += kLanes) {
      const Vec value = load_logits(x + i, lanes_left(end - i));
      best = max(value, best);
      bad = bad | not_less(value, broadcast(kInfinity));
    }
    group_best[begin / kSampleGroup] = reduce_max(best);
    chunk.best = std::max(chunk.best, group_best[begin / kSampleGroup]);
  }
  chunk.finite = bits(bad) == 0;
  if (!chunk.finite || chunk.best == -kInfinity) return chunk;
  Vec sum = broadcast(0.0f);
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec value = load_logits(x + i, lanes_left(size - i));
    sum = sum + exp_below_88((value - broadcast(chunk.best)) * broadcast(scale));
  }
  chunk.sum = reduce_add(sum);
  return chunk;
}

void weigh(const float* x, int64_t size, float scale, float best, float* out) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    store_lanes(out + i, exp_below_88((load_lanes(x + i, lanes) - broadcast(best)) * broadcast(scale)), lanes);
  }
}

int64_t collect(const float* x, int64_t size, float least, int32_t* ids) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    const Mask enough = less_equal(broadcast(least), load_lanes(x + i, lanes)) & first_lanes(lanes);
    for (uint32_t found = bits(enough); found != 0; found &= found - 1) {
      ids[count++] = static_cast<int32_t>(i + std::countr_zero(found));
    }
  }
  return count;
}

int64_t count_larger(const float* x, int64_t size, float value) {
  int64_t count = 0;
  for (int64_t i = 0; i < size; i += kLanes) {
    count += std::popcount(bits(less(broadcast(value), load_logits(x + i, lanes_left(size - i)))));
  }
  return count;
}
