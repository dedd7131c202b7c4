#pragma once

#include "backend/cpu/activation_rows.h"
#include "backend/cpu/gemm/pieces.h"
#include "backend/ops.h"

// The op functions, and the parts that ops of several parts need, of every instruction set, by the same names in three
// namespaces.

namespace quire::cpu::portable {
#include "backend/cpu/kernels.inl"
void resolve(const ResolveArgs& args, Stream& stream);
}  // namespace quire::cpu::portable

namespace quire::cpu::avx2 {
#include "backend/cpu/kernels.inl"
}  // namespace quire::cpu::avx2

namespace quire::cpu::avx512 {
#include "backend/cpu/kernels.inl"
}  // namespace quire::cpu::avx512
