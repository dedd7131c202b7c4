// A worker's way through one item of the plan (attention_plan.h).
//
// Per span of keys: stripes of rows, each of them scores (attention_tile.inl), softmax in two passes over the scores
// (attention_softmax.inl), values, and the join with the spans before. A span's partial sum starts from zero, and spans
// are joined in rising order, by the same code whether one worker sees all spans of a row or several share them.
// Many rows (prefill) unpack each span once and multiply from the caches; few rows (decode) read the pages in place.

constexpr int kMostRows = 384;
/// Rows that go through scores, softmax and values together, so that the scores stay in the first-level cache.
constexpr int kStripeRows = 24;
/// Up to so many rows, reading the pages in place is cheaper than unpacking them.
constexpr int kMostPagedRows = 16;
/// Panels of keys, or vectors of components, that all chunks of a stripe use before the next ones.
constexpr int kVectorsPerPass = 8;
/// Lines fetched ahead per chunk of rows and pass.
constexpr int kLinesPerChunk = 8;
/// Products of a query with a key that are worth a second worker: some two microseconds.
constexpr int64_t kMinWorkPerWorker = 1024;
/// Floats before a kept partial sum: its RowSum, padded so that the sums are aligned.
constexpr int kRowHeader = 16;
static_assert(kStripeRows % kTileRows == 0 && kMostPagedRows <= kStripeRows);

/// One worker's memory, all of it cut from its scratch.
struct Workspace {
  float* queries = nullptr;  ///< per chunk [K][rows of the chunk], scaled
  float* keys = nullptr;     ///< unpacked span
  float* values = nullptr;
  float* scores = nullptr;     ///< [kStripeRows][kScoreStride]
  float* span_sums = nullptr;  ///< [kStripeRows][Vp], of one span
  float* sums = nullptr;       ///< [rows][Vp], of all spans so far
  RowSum* rows = nullptr;

  /// `memory` null: just count. Returns the bytes needed.
  size_t assign(void* memory, const AttentionPlan& plan, int64_t head_dim, int64_t value_stride) {
    size_t used = 0;
    const auto take = [&](int64_t floats) {
      float* const at = memory == nullptr ? nullptr : static_cast<float*>(memory) + used / sizeof(float);
      used += static_cast<size_t>((floats + 15) / 16 * 16) * sizeof(float);
      return at;
    };
    const int64_t padded_rows = plan.max_rows + kTileRows;
    queries = take(padded_rows * head_dim);
    keys = take(kAttentionSpan * head_dim);
    values = take(value_stride / kLanes * kUnpackedVectorStride);
    scores = take(kStripeRows * kScoreStride);
    span_sums = take(kStripeRows * value_stride);
    sums = take(plan.max_rows * value_stride);
    rows = reinterpret_cast<RowSum*>(take(2 * int64_t{plan.max_rows}));
    return used;
  }
};
static_assert(sizeof(RowSum) == 2 * sizeof(float));

class ItemRun {
 public:
  /// `next`: what this worker does afterwards; null if nothing.
  ItemRun(const AttentionArgs& args, AttentionPlan& plan, const AttentionItem& item, const AttentionItem* next,
          const Workspace& work)
      : args_(args),
        plan_(plan),
        item_(item),
        tile_(plan.tiles[static_cast<size_t>(item.tile)]),
        next_(next),
        work_(work),
        num_rows_(plan.rows(tile_)),
        value_stride_(kv_layout(args.kv).value_stride),
        paged_(num_rows_ <= kMostPagedRows && pages_hold_panels(args.kv)) {
    const int chunks = (num_rows_ + kPagedTileRows - 1) / kPagedTileRows;
    if (paged_) chunk_rows_ = (num_rows_ + chunks - 1) / chunks;
  }

  void run() {
    load_queries();
    if (whole()) {
      std::fill_n(work_.sums, num_rows_ * value_stride_, 0.0f);
      std::fill_n(work_.rows, num_rows_, RowSum{});
    }
    for (int span = item_.span_begin; span < item_.span_end; ++span) {
      switch (args_.kv.dtype) {
        case DType::kBFloat16: run_span<BFloat16>(span); break;
        case DType::kFloat16: run_span<Float16>(span); break;
        default: run_span<float>(span); break;
      }
    }
    if (whole()) {
      for (int row = 0; row < num_rows_; ++row) finish(row, work_.rows[row], work_.sums + row * value_stride_);
    } else {
      std::atomic_ref<int32_t> open(plan_.open_items[static_cast<size_t>(item_.tile)]);
      if (open.fetch_sub(1, std::memory_order_acq_rel) == 1) join_spans();
    }
  }

 private:
  bool whole() const { return plan_.partial_offsets[static_cast<size_t>(item_.tile)] == AttentionPlan::kWhole; }

  int64_t head(int row) const { return int64_t{tile_.kv_head} * plan_.group + row % plan_.group; }

  int position(int row) const { return tile_.position + row / plan_.group; }

  /// First key and one past the last that a row sees, relative to a span and within it.
  int keys_begin(int row, int first_key) const {
    const int first = args_.window > 0 ? position(row) - args_.window + 1 - first_key : 0;
    return std::clamp(first, 0, int{kAttentionSpan});
  }
  int keys_end(int row, int first_key) const {
    return std::clamp(position(row) + 1 - first_key, 0, int{kAttentionSpan});
  }

  const float* query(int row) const {
    return args_.q.as<const float>() + (tile_.token + row / plan_.group) * args_.q.strides[0] +
           head(row) * args_.q.strides[1];
  }

  /// Chunk after chunk, scaled and transposed to [K][rows of the chunk]. Rows missing in the last unpacked chunk are
  /// zero: their products are formed, though not used.
  void load_queries() {
    const int64_t size = args_.kv.head_dim;
    for (int chunk = 0; chunk < num_rows_; chunk += chunk_rows_) {
      const int count = chunk_count(chunk, num_rows_);
      float* const out = work_.queries + chunk * size;
      if (chunk + count > num_rows_) std::fill_n(out, size * count, 0.0f);
      for (int row = chunk; row < std::min(chunk + count, num_rows_); ++row) {
        // The rows of a tile lie apart; the next chunk's come while this one's are copied.
        if (row + count < num_rows_) prefetch_row(query(row + count), size);
        const float* const q = query(row);
        for (int64_t k = 0; k < size; ++k) out[k * count + row - chunk] = q[k] * args_.scale;
      }
    }
  }

  static void prefetch_row(const float* row, int64_t size) {
    for (int64_t k = 0; k < size; k += 16) prefetch(row + k);
  }

  SpanSource source_of(const AttentionTile& tile, int span) const {
    SpanSource source;
    source.kv = &args_.kv;
    source.layout = kv_layout(args_.kv);
    source.block_table = args_.batch->block_tables + args_.batch->block_starts[tile.sequence];
    source.kv_head = tile.kv_head;
    source.first_key = int64_t{span} * kAttentionSpan;
    const int first_key = static_cast<int>(source.first_key);
    source.begin = std::max(0, tile.key_begin - first_key);
    source.end = std::min(int{kAttentionSpan}, tile.key_end - first_key);
    return source;
  }

  /// What this worker reads after a span: the item's next span, or the first one of its next item.
  template <typename Fetch>
  void fetch_after(int span, Fetch fetch, Ahead& ahead) const {
    if (span + 1 < item_.span_end) {
      fetch(source_of(tile_, span + 1), ahead);
    } else if (next_ != nullptr) {
      fetch(source_of(plan_.tiles[static_cast<size_t>(next_->tile)], next_->span_begin), ahead);
    }
  }

  template <typename T>
  void run_span(int span) {
    const SpanSource source = source_of(tile_, span);
    if (paged_) {
      SpanView<T> view = view_span<T>(source);
      // The values come while the scores are formed, the next keys while the values are summed.
      Ahead values, keys;
      fetch_values<T>(source, values);
      fetch_after(span, fetch_keys<T>, keys);
      view.score_ahead = &values;
      view.value_ahead = &keys;
      run_stripe(view, span, 0, num_rows_, [](int rows) -> const ChunkProducts<T>& {
        static constexpr auto kProducts = chunk_products_table<T>(std::make_integer_sequence<int, kPagedTileRows>());
        return kProducts[static_cast<size_t>(rows - 1)];
      });
      return;
    }
    const SpanView<float> view = unpack_span<T>(source, work_.keys, work_.values);
    ahead_ = Ahead();
    fetch_after(span, fetch_pages<T>, ahead_);
    for (int row = 0; row < num_rows_; row += kStripeRows) {
      // Chunks are always full here.
      run_stripe(view, span, row, std::min(num_rows_, row + kStripeRows), [](int) -> const ChunkProducts<float>& {
        static constexpr ChunkProducts<float> kProducts = chunk_products<kTileRows, false, float>();
        return kProducts;
      });
    }
  }

  int chunk_count(int row, int row_end) const { return paged_ ? std::min(chunk_rows_, row_end - row) : chunk_rows_; }

  /// The rows [row_begin, row_end) over one span.
  template <typename T, typename ProductsOf>
  void run_stripe(const SpanView<T>& view, int span, int row_begin, int row_end, ProductsOf products_of) {
    const int first_key = span * kAttentionSpan;
    const int begin = keys_begin(row_begin, first_key);
    const int end = keys_end(row_end - 1, first_key);
    if (begin < end) {
      score_stripe(view, begin, end, row_begin, row_end, products_of);
    }
    RowSum row_sums[kStripeRows];
    for (int row = row_begin; row < row_end; ++row) {
      row_sums[row - row_begin] =
          softmax_row(work_.scores + (row - row_begin) * kScoreStride, keys_begin(row, first_key),
                      keys_end(row, first_key), begin, end, score_rule(row, first_key));
    }
    if (begin < end) {
      value_stripe(view, begin, end, row_begin, row_end, products_of);
    }
    for (int row = row_begin; row < row_end; ++row) {
      deliver(span, row, row_sums[row - row_begin], work_.span_sums + (row - row_begin) * value_stride_);
    }
  }

  /// A few panels of keys stay in the first-level cache while all chunks use them.
  template <typename T, typename ProductsOf>
  void score_stripe(const SpanView<T>& view, int begin, int end, int row_begin, int row_end, ProductsOf products_of) {
    const int64_t size = args_.kv.head_dim;
    const int panels = (end + kLanes - 1) / kLanes;
    for (int panel = begin / kLanes; panel < panels; panel += kVectorsPerPass) {
      const int panel_end = std::min(panels, panel + kVectorsPerPass);
      for (int row = row_begin; row < row_end; row += chunk_rows_) {
        products_of(chunk_count(row, row_end))
            .scores(work_.queries + row * size, view, panel, panel_end, size,
                    work_.scores + (row - row_begin) * kScoreStride);
        ahead_.fetch<kLinesPerChunk>();
      }
    }
  }

  template <typename T, typename ProductsOf>
  void value_stripe(const SpanView<T>& view, int begin, int end, int row_begin, int row_end, ProductsOf products_of) {
    const int vectors = static_cast<int>(value_stride_) / kLanes;
    for (int vector = 0; vector < vectors; vector += kVectorsPerPass) {
      const int vector_end = std::min(vectors, vector + kVectorsPerPass);
      for (int row = row_begin; row < row_end; row += chunk_rows_) {
        products_of(chunk_count(row, row_end))
            .values(work_.scores + (row - row_begin) * kScoreStride, view, vector, vector_end, begin, end,
                    work_.span_sums + (row - row_begin) * value_stride_, value_stride_);
      }
    }
  }

  ScoreRule score_rule(int row, int first_key) const {
    ScoreRule rule;
    rule.softcap = args_.softcap;
    rule.alibi = args_.alibi_slopes != nullptr;
    if (rule.alibi) rule.slope = args_.alibi_slopes[head(row)];
    rule.distance = static_cast<float>(first_key - position(row));
    return rule;
  }

  /// A row's partial sum over a span: join it to those before, or keep it for whoever finishes the tile last.
  void deliver(int span, int row, RowSum sum, const float* sums) {
    if (whole()) {
      join_row(work_.rows[row], work_.sums + row * value_stride_, sum, sums, value_stride_);
      return;
    }
    float* const kept = partial(span, row);
    kept[0] = sum.best;
    kept[1] = sum.sum;
    if (sum.sum != 0.0f) std::copy_n(sums, value_stride_, kept + kRowHeader);
  }

  float* partial(int span, int row) const {
    const int64_t offset = plan_.partial_offsets[static_cast<size_t>(item_.tile)];
    return plan_.partials.data() + offset + (span - tile_.span_begin()) * plan_.partials_per_span +
           row * (value_stride_ + kRowHeader);
  }

  void join_spans() {
    for (int row = 0; row < num_rows_; ++row) {
      RowSum sum;
      std::fill_n(work_.sums, value_stride_, 0.0f);
      for (int span = tile_.span_begin(); span < tile_.span_end(); ++span) {
        const float* const kept = partial(span, row);
        join_row(sum, work_.sums, {.best = kept[0], .sum = kept[1]}, kept + kRowHeader, value_stride_);
      }
      finish(row, sum, work_.sums);
    }
  }

  void finish(int row, RowSum sum, const float* sums) {
    const float* const sink = args_.sinks == nullptr ? nullptr : args_.sinks + head(row);
    float* const out = args_.out.as<float>() + (tile_.token + row / plan_.group) * args_.out.strides[0] +
                       head(row) * args_.out.strides[1];
    finish_row(sum, sums, sink, out, args_.kv.v_head_dim);
  }

  const AttentionArgs& args_;
  AttentionPlan& plan_;
  const AttentionItem& item_;
  const AttentionTile& tile_;
  const AttentionItem* const next_;
  const Workspace& work_;
  const int num_rows_;
  const int64_t value_stride_;
  const bool paged_;
  int chunk_rows_ = kTileRows;
  Ahead ahead_;  ///< pages of the next span, while an unpacked one is worked on
};
