#pragma once

#include "backend/cpu/cpu_features.h"
#include "backend/ops.h"

namespace quire::cpu {

/// The op tables, one per instruction set. A table other than the portable one may only be used where cpu_features.h
/// says that the machine has the instructions; on processors that are no x86 only the portable one is defined.
const Ops& portable_ops();
const Ops& avx2_ops();
const Ops& avx512_ops();

/// The table of an instruction set that isa_supported() allows.
const Ops& ops_of(Isa isa);

}  // namespace quire::cpu
