#include "model/workspace.h"

#include <cstddef>

namespace quire {
namespace {

// Every tensor starts on a cache line, and on a 64-byte vector.
constexpr int64_t kAlignment = 64;

class Cutter {
 public:
  Cutter(void* base, int64_t offset) : base_(static_cast<std::byte*>(base)), offset_(offset) {}

  Tensor take(int64_t rows, int64_t columns) {
    void* place = base_ == nullptr ? nullptr : base_ + offset_;
    const Tensor tensor(place, DType::kFloat32, {rows, columns});
    offset_ += (tensor.bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return tensor;
  }

  int64_t offset() const { return offset_; }

 private:
  std::byte* base_;
  int64_t offset_;
};

}  // namespace

Workspace::Workspace(const ModelSpec& spec, int64_t num_tokens, int64_t num_logit_rows, void* base) {
  int64_t widest_qkv = 0, widest_attention = 0, widest_up = 0, widest_ffn = 0;
  for (const Layer& layer : spec.layers) {
    widest_qkv = std::max(widest_qkv, qkv_width(layer.attention));
    widest_attention =
        std::max<int64_t>(widest_attention, int64_t{layer.attention.heads} * layer.attention.value_dim());
    widest_up = std::max<int64_t>(widest_up, int64_t{layer.ffn.width} * (layer.ffn.gated ? 2 : 1));
    widest_ffn = std::max<int64_t>(widest_ffn, layer.ffn.width);
  }
  Cutter always(base, 0);
  hidden = always.take(num_tokens, spec.width);
  normed = always.take(num_tokens, spec.width);

  Cutter in_attention(base, always.offset());
  qkv = in_attention.take(num_tokens, widest_qkv);
  attention = in_attention.take(num_tokens, widest_attention);

  Cutter in_ffn(base, always.offset());
  up = in_ffn.take(num_tokens, widest_up);
  activated = in_ffn.take(num_tokens, widest_ffn);

  Cutter in_head(base, always.offset());
  gathered = in_head.take(num_logit_rows, spec.width);

  bytes = std::max({in_attention.offset(), in_ffn.offset(), in_head.offset()});
}

}  // namespace quire
