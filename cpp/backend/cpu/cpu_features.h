#pragma once

#include <string_view>

namespace quire::cpu {

/// Instruction sets that this backend has kernels for, the better the later.
enum class Isa { kPortable, kAvx2, kAvx512 };

/// "portable", "avx2", "avx512".
std::string_view isa_name(Isa isa);

/// Whether the processor and the operating system offer everything the kernels of `isa` use:
/// kAvx2: AVX2, FMA, F16C. kAvx512: these and AVX-512 F, BW, DQ, VL.
bool isa_supported(Isa isa);

/// The best one supported.
Isa best_isa();

}  // namespace quire::cpu
