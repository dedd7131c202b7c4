// Joining what the experts made of a token (moe_run.h), over the names of simd_*.h.

void join_row(const JoinedRow& row) {
  for (int64_t i = 0; i < row.size; i += kLanes) {
    const int lanes = lanes_left(row.size - i);
    Vec sum = broadcast(0.0f);
    for (int32_t j = 0; j < row.count; ++j) {
      sum = fma(broadcast(row.weights[j]), load_lanes(row.x + row.rows[j] * row.x_stride + i, lanes), sum);
    }
    if (row.residual != nullptr) sum = sum + load_lanes(row.residual + i, lanes);
    store_lanes(row.out + i, sum, lanes);
  }
}
