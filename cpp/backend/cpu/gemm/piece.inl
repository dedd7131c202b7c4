// A piece of the linear op, tile by tile: what LinearKernel::compute points to. Included inside the namespace of an
// instruction set, behind tile.inl. That namespace has set
//   kTileRows       rows of the largest register tile,
//   kFullPanelRows  up to so many rows a tile holds all columns of a panel, else half of them.
//
// A panel is used by all rows of the piece before the next one is touched, so it comes from memory once. Long sums are
// cut in k, so that the panel's part and x's part stay in the L2 cache; the sums so far wait in `partial_`. A float32
// that is stored and loaded again is the same, so the cut does not show in the result.

constexpr int64_t kRowsPerBlock = 120 / kTileRows * kTileRows;
constexpr int64_t kMaxDepth = 2048;
/// For a panel that is read once: far enough ahead to cover the latency of memory.
constexpr int64_t kPrefetchBytes = 6144;

using TileFn = void (*)(const Tile& tile);

/// Entry r computes r + 1 rows.
template <int kVectors, typename Weight, int... kRow>
constexpr std::array<TileFn, sizeof...(kRow)> tile_functions(std::integer_sequence<int, kRow...>) {
  return {compute_tile<kRow + 1, kVectors, Weight>...};
}

template <typename Weight>
class PieceRun {
 public:
  PieceRun(const LinearArgs& args, const LinearPiece& piece)
      : args_(args),
        piece_(piece),
        rows_(piece.row_end - piece.row_begin),
        tiles_((rows_ + kTileRows - 1) / kTileRows),
        full_panel_((rows_ + tiles_ - 1) / tiles_ <= kFullPanelRows) {}

  void compute() {
    const int64_t k = args_.weight->k;
    // One tile reads the panel once, however long it is.
    const int64_t parts = tiles_ == 1 ? 1 : (k + kMaxDepth - 1) / kMaxDepth;
    for (int64_t panel = piece_.panel_begin; panel < piece_.panel_end; ++panel) {
      for (int64_t part = 0; part < parts; ++part) compute_depth(panel, k * part / parts, k * (part + 1) / parts);
      if (!whole(panel)) finish_columns(panel);
    }
  }

 private:
  /// Whether all columns of the panel exist.
  bool whole(int64_t panel) const { return (panel + 1) * kPanelColumns <= args_.weight->n; }

  /// All rows times one panel, over a range of k.
  void compute_depth(int64_t panel, int64_t begin, int64_t end) {
    static constexpr auto kFull =
        tile_functions<32 / kLanes, Weight>(std::make_integer_sequence<int, kFullPanelRows>());
    if (full_panel_) {
      for (int64_t tile = 0; tile < tiles_; ++tile) compute_tile_at(tile, panel, 0, begin, end, kFull);
      return;
    }
    if constexpr (kFullPanelRows < kTileRows) {
      static constexpr auto kHalf = tile_functions<16 / kLanes, Weight>(std::make_integer_sequence<int, kTileRows>());
      for (int64_t column = 0; column < kPanelColumns; column += 16) {
        for (int64_t tile = 0; tile < tiles_; ++tile) compute_tile_at(tile, panel, column, begin, end, kHalf);
      }
    }
  }

  template <typename Functions>
  void compute_tile_at(int64_t index, int64_t panel, int64_t column, int64_t begin, int64_t end,
                       const Functions& functions) {
    const int64_t first = rows_ * index / tiles_;  // within the piece; the rows are dealt out evenly
    const int64_t count = rows_ * (index + 1) / tiles_ - first;
    const int64_t row = piece_.row_begin + first;
    const int64_t out_column = panel * kPanelColumns + column;
    float* const partial = partial_ + first * kPanelColumns + column;
    Tile tile;
    tile.x_stride = args_.x.strides[0];
    tile.x = args_.x.as<const float>() + row * tile.x_stride + begin;
    const Weight* const weights = panel_of<Weight>(*args_.weight, piece_.group, panel) + begin * kPanelColumns;
    tile.weights = weights + column;
    tile.depth = end - begin;
    set_prefetch(tile, weights, index + (column > 0 ? tiles_ : 0));
    if (begin > 0) tile.start = partial;
    tile.out = partial;
    tile.out_stride = kPanelColumns;
    if (end == args_.weight->k && whole(panel)) {
      tile.out_stride = args_.out.strides[0];
      tile.out = args_.out.as<float>() + row * tile.out_stride + out_column;
      if (args_.bias) tile.bias = args_.bias.as<const float>() + out_column;
      tile.residual_stride = args_.residual.strides[0];
      if (args_.residual) tile.residual = args_.residual.as<const float>() + row * tile.residual_stride + out_column;
    }
    functions[static_cast<size_t>(count - 1)](tile);
  }

  /// Memory should never rest while a panel is used several times: each pass fetches its share of what comes next.
  void set_prefetch(Tile& tile, const Weight* weights, int64_t pass) const {
    constexpr int64_t kRowBytes = kPanelColumns * sizeof(Weight);
    const int64_t passes = full_panel_ ? tiles_ : 2 * tiles_;
    const char* const here = reinterpret_cast<const char*>(weights);
    tile.prefetch = here + (passes == 1 ? kPrefetchBytes : tile.depth * kRowBytes * (passes + pass) / passes);
    tile.prefetch_step = kRowBytes / passes;
  }

  /// The columns of the last, incomplete panel, one by one.
  void finish_columns(int64_t panel) const {
    for (int64_t row = piece_.row_begin; row < piece_.row_end; ++row) {
      const float* const sums = partial_ + (row - piece_.row_begin) * kPanelColumns;
      for (int64_t column = panel * kPanelColumns; column < args_.weight->n; ++column) {
        float sum = sums[column % kPanelColumns];
        if (args_.bias) sum += args_.bias.as<const float>()[column];
        if (args_.residual) sum += args_.residual.as<const float>()[row * args_.residual.strides[0] + column];
        args_.out.as<float>()[row * args_.out.strides[0] + column] = sum;
      }
    }
  }

  const LinearArgs& args_;
  const LinearPiece& piece_;
  const int64_t rows_;
  const int64_t tiles_;
  const bool full_panel_;
  alignas(64) float partial_[kRowsPerBlock * kPanelColumns];
};

void compute_piece(const LinearArgs& args, const LinearPiece& piece) {
  switch (args.weight->dtype) {
    case DType::kBFloat16: return PieceRun<BFloat16>(args, piece).compute();
    case DType::kFloat16: return PieceRun<Float16>(args, piece).compute();
    default: return PieceRun<float>(args, piece).compute();
  }
}
