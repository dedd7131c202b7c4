// How the products of attention find a span of keys and values, over the names of simd_*.h.

/// Memory that is wanted soon, asked for line by line between the products: a decode step is bound by memory, and pages
/// are too small for the hardware's prefetchers.
class Ahead {
 public:
  void add(const void* memory, int64_t bytes) {
    if (count_ == kMostParts) return;
    parts_[count_++] = {static_cast<const char*>(memory), static_cast<const char*>(memory) + bytes};
  }

  /// Ask for the next kLines lines.
  template <int kLines>
  void fetch() {
    if (at_ >= end_) {
      if (next_ == count_) return;
      at_ = parts_[next_].begin;
      end_ = parts_[next_++].end;
    }
#pragma GCC unroll 16
    for (int line = 0; line < kLines; ++line) prefetch(at_ + 64 * line);
    at_ += 64 * kLines;
  }

 private:
  struct Part {
    const char* begin;
    const char* end;
  };
  const char* at_ = nullptr;
  const char* end_ = nullptr;
  int count_ = 0;
  int next_ = 0;
  static constexpr int kMostParts = kAttentionSpan / 8;  // the pages of a span, if a page holds 8 tokens
  Part parts_[kMostParts];
};

/// Where the keys and values of one span lie, in the cache's pages or unpacked.
template <typename T>
struct SpanView {
  const T* keys[kAttentionSpan / kLanes];  ///< component 0 of kLanes keys each
  int64_t key_stride = 0;                  ///< from a component to the next
  const T* values[kAttentionSpan / 8];     ///< the values of `block_tokens` tokens each
  int64_t block_tokens = 0;
  int64_t token_stride = 0;
  int64_t vector_stride = 0;     ///< from kLanes components to the next kLanes
  Ahead* score_ahead = nullptr;  ///< what to fetch meanwhile; only of views of the pages
  Ahead* value_ahead = nullptr;
};
