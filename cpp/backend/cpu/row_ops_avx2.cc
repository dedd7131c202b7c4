#include <immintrin.h>

#include <cmath>

#include "backend/cpu/activation_rows.h"
#include "backend/cpu/add_factor.h"
#include "backend/cpu/kernels.h"
#include "backend/cpu/kv_layout.h"
#include "backend/cpu/matrix_pieces.h"
#include "backend/cpu/moe_run.h"
#include "backend/cpu/norm_rows.h"
#include "backend/cpu/rope_heads.h"
#include "backend/cpu/rows.h"
#include "backend/cpu/simd_avx2.h"

#pragma GCC target("avx2,fma,f16c")

namespace quire::cpu::avx2 {
namespace {

#include "backend/cpu/simd_math.inl"
#include "backend/cpu/simd_rows.inl"
// What they need first.
#include "backend/cpu/activation.inl"
#include "backend/cpu/add.inl"
#include "backend/cpu/embed.inl"
#include "backend/cpu/kv_write.inl"
#include "backend/cpu/logit_scale.inl"
#include "backend/cpu/moe.inl"
#include "backend/cpu/norm.inl"
#include "backend/cpu/rope.inl"

}  // namespace

#include "backend/cpu/row_ops.inl"

}  // namespace quire::cpu::avx2
