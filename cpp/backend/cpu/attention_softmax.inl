// Softmax pieces of attention over the names of simd_*.h and simd_math.inl.

/// What turns a dot product into a score, of one query row within one span.
struct ScoreRule {
  float softcap = 0.0f;  ///< 0: none
  float slope = 0.0f;    ///< of ALiBi; used if `alibi`
  bool alibi = false;
  float distance = 0.0f;  ///< span's first key position minus the query's
};

/// Softmax over some keys of a row: largest score, and sum of exponentials relative to it. No keys: sum 0.
struct RowSum {
  float best = -std::numeric_limits<float>::infinity();
  float sum = 0.0f;
};

/// Pass 1: final scores in place, minus infinity in the lanes of keys not seen; returns the largest.
template <bool kChanged>
float score_row(float* scores, int begin, int end, const ScoreRule& rule) {
  const Vec hidden = broadcast(-std::numeric_limits<float>::infinity());
  Vec best = hidden;
  for (int t = begin / kLanes * kLanes; t < end; t += kLanes) {
    Vec score = load(scores + t);
    if constexpr (kChanged) {
      if (rule.softcap > 0.0f) {
        const Vec cap = broadcast(rule.softcap);
        score = cap * tanh(score / cap);
      }
      if (rule.alibi) {
        const Vec distance = lane_index() + broadcast(static_cast<float>(t) + rule.distance);
        score = fma(broadcast(rule.slope), distance, score);
      }
    }
    const bool partial = t < begin || t + kLanes > end;
    if (partial) {
      score = select(first_lanes(end - t), score, hidden);
      score = select(first_lanes(begin - t), hidden, score);
    }
    if (kChanged || partial) store(scores + t, score);
    best = max(score, best);
  }
  return reduce_max(best);
}

/// Turn the scores of the keys [begin, end) of the span into exponentials relative to the largest, and everything else
/// of [clear_begin, clear_end) into zeros. A vector's place in the sum depends on its position in the span alone.
RowSum softmax_row(float* scores, int begin, int end, int clear_begin, int clear_end, const ScoreRule& rule) {
  RowSum row;
  const Vec zero = broadcast(0.0f);
  if (begin >= end) {
    for (int t = clear_begin / kLanes * kLanes; t < clear_end; t += kLanes) store(scores + t, zero);
    return row;
  }
  const bool changed = rule.softcap > 0.0f || rule.alibi;
  row.best = changed ? score_row<true>(scores, begin, end, rule) : score_row<false>(scores, begin, end, rule);
  const Vec best = broadcast(row.best);
  Vec sum = zero;
  int t = clear_begin / kLanes * kLanes;
  for (; t + kLanes <= begin; t += kLanes) store(scores + t, zero);
  for (; t < end; t += kLanes) {
    const Vec weight = exp_below_88(load(scores + t) - best);
    store(scores + t, weight);
    sum = sum + weight;
  }
  for (; t < clear_end; t += kLanes) store(scores + t, zero);
  row.sum = reduce_add(sum);
  return row;
}

/// e^x of a number that is not positive.
float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp_below_88(broadcast(x)));
  return lanes[0];
}

/// Join the partial sum `piece` of later keys to `row`. `size`: a multiple of 16.
void join_row(RowSum& row, float* out, RowSum piece, const float* piece_out, int64_t size) {
  if (piece.sum == 0.0f) return;
  if (row.sum == 0.0f) {
    row = piece;
    std::copy_n(piece_out, size, out);
    return;
  }
  // The larger of the two keeps its scale.
  const bool rises = piece.best > row.best;
  const float factor = exp_of(rises ? row.best - piece.best : piece.best - row.best);
  const float keep = rises ? factor : 1.0f;
  const float take = rises ? 1.0f : factor;
  row.best = rises ? piece.best : row.best;
  row.sum = row.sum * keep + piece.sum * take;
  for (int64_t i = 0; i < size; i += kLanes) {
    const Vec kept = load(out + i) * broadcast(keep);
    store(out + i, fma(load(piece_out + i), broadcast(take), kept));
  }
}

/// Divide by the sum and write the row. `sink`: a score without a value, or null.
void finish_row(RowSum row, const float* sums, const float* sink, float* out, int64_t size) {
  float factor = 1.0f;
  if (sink != nullptr) {
    const bool rises = *sink > row.best;
    factor = rises ? exp_of(row.best - *sink) : 1.0f;
    row.sum = row.sum * factor + (rises ? 1.0f : exp_of(*sink - row.best));
  }
  const Vec scale = broadcast(factor / row.sum);
  for (int64_t i = 0; i < size; i += kLanes) {
    const int lanes = lanes_left(size - i);
    store_lanes(out + i, load(sums + i) * scale, lanes);
  }
}
