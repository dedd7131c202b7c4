// The register tile: out[r, c] = start[r, c] + sum_k x[r, k] * weights[k, c] (+ bias[c]) (+ residual[r, c])
//
// kRows x kVectors sums stay in registers while k runs; per k, kVectors of weights are widened to float32 on the way in
// and every x is broadcast. Each sum is one chain of fused multiply-adds in the order of k: the order that
// ops/linear.h promises. What limits: memory up to 8 rows or so, the multiply-add units above.
// Included inside the namespace of an instruction set, over the names of simd_*.h.

struct Tile {
  const float* x = nullptr;  ///< [rows, depth]
  int64_t x_stride = 0;
  const void* weights = nullptr;  ///< [depth][kPanelColumns], from the tile's first column on
  int64_t depth = 0;
  const char* prefetch = nullptr;  ///< memory that will be needed soon, and how far to go on per k
  int64_t prefetch_step = 0;
  const float* start = nullptr;  ///< [rows][kPanelColumns] sums so far; null: zeros
  const float* bias = nullptr;   ///< [columns] or null
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};

template <int kRows, int kVectors, typename Weight>
void compute_tile(const Tile& tile) {
  constexpr int kLineBytes = 64;
  Vec sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = tile.start == nullptr ? broadcast(0.0f) : load(tile.start + r * kPanelColumns + v * kLanes);
    }
  }
  const float* x = tile.x;
  const int64_t x_stride = tile.x_stride;
  const Weight* weights = static_cast<const Weight*>(tile.weights);
  const char* prefetch = tile.prefetch;
  for (int64_t k = 0; k < tile.depth; ++k, ++x, weights += kPanelColumns, prefetch += tile.prefetch_step) {
#pragma GCC unroll 2
    for (int byte = 0; byte < kVectors * kLanes * static_cast<int>(sizeof(Weight)); byte += kLineBytes) {
      _mm_prefetch(prefetch + byte, _MM_HINT_T0);
    }
    // What there is less of is kept in registers.
    if constexpr (kRows < kVectors) {
      Vec inputs[kRows];
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) inputs[r] = broadcast(x[r * x_stride]);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) {
        const Vec weight = load(weights + v * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) sums[r][v] = fma(inputs[r], weight, sums[r][v]);
      }
    } else {
      Vec weight[kVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) weight[v] = load(weights + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const Vec input = broadcast(x[r * x_stride]);
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(input, weight[v], sums[r][v]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) {
      Vec sum = sums[r][v];
      if (tile.bias != nullptr) sum = sum + load(tile.bias + v * kLanes);
      if (tile.residual != nullptr) sum = sum + load(tile.residual + r * tile.residual_stride + v * kLanes);
      store(tile.out + r * tile.out_stride + v * kLanes, sum);
    }
  }
}
