#include "kernels_cuda/ops.h"

namespace quire::gpu {

const Ops& ops() {
  static const Ops table{.embed = embed,
                         .norm = norm,
                         .linear = linear,
                         .grouped_linear = grouped_linear,
                         .rope = rope,
                         .kv_write = kv_write,
                         .copy_blocks = copy_blocks,
                         .attention = attention,
                         .activation = activation,
                         .route = route,
                         .moe = moe,
                         .add = add,
                         .clip = clip,
                         .gather = gather,
                         .logit_scale = logit_scale,
                         .resolve = resolve,
                         .sample = sample,
                         .normed_linear = normed_linear,
                         .rope_kv_write = rope_kv_write};
  return table;
}

}  // namespace quire::gpu
