#include "backend/cpu/ops.h"

#include "backend/cpu/kernels.h"

namespace quire::cpu {

const Ops& portable_ops() {
  static constexpr Ops kTable{.embed = portable::embed,
                              .norm = portable::norm,
                              .linear = portable::linear,
                              .grouped_linear = portable::grouped_linear,
                              .rope = portable::rope,
                              .kv_write = portable::kv_write,
                              .copy_blocks = portable::copy_blocks,
                              .attention = portable::attention,
                              .activation = portable::activation,
                              .route = portable::route,
                              .moe = portable::moe,
                              .add = portable::add,
                              .clip = portable::clip,
                              .gather = portable::gather,
                              .logit_scale = portable::logit_scale,
                              .resolve = portable::resolve,
                              .sample = portable::sample};
  return kTable;
}

#if defined(__x86_64__)

const Ops& avx2_ops() {
  static constexpr Ops kTable{.embed = avx2::embed,
                              .norm = avx2::norm,
                              .linear = avx2::linear,
                              .grouped_linear = avx2::grouped_linear,
                              .rope = avx2::rope,
                              .kv_write = avx2::kv_write,
                              .copy_blocks = avx2::copy_blocks,
                              .attention = avx2::attention,
                              .activation = avx2::activation,
                              .route = avx2::route,
                              .moe = avx2::moe,
                              .add = avx2::add,
                              .clip = avx2::clip,
                              .gather = avx2::gather,
                              .logit_scale = avx2::logit_scale,
                              .resolve = portable::resolve,
                              .sample = avx2::sample};
  return kTable;
}

const Ops& avx512_ops() {
  static constexpr Ops kTable{.embed = avx512::embed,
                              .norm = avx512::norm,
                              .linear = avx512::linear,
                              .grouped_linear = avx512::grouped_linear,
                              .rope = avx512::rope,
                              .kv_write = avx512::kv_write,
                              .copy_blocks = avx512::copy_blocks,
                              .attention = avx512::attention,
                              .activation = avx512::activation,
                              .route = avx512::route,
                              .moe = avx512::moe,
                              .add = avx512::add,
                              .clip = avx512::clip,
                              .gather = avx512::gather,
                              .logit_scale = avx512::logit_scale,
                              .resolve = portable::resolve,
                              .sample = avx512::sample};
  return kTable;
}

const Ops& ops_of(Isa isa) {
  switch (isa) {
    case Isa::kAvx512: return avx512_ops();
    case Isa::kAvx2: return avx2_ops();
    default: return portable_ops();
  }
}

#else

const Ops& ops_of(Isa) {
  return portable_ops();
}

#endif

}  // namespace quire::cpu
