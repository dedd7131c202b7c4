#include "backend/cpu/cpu_features.h"

namespace quire::cpu {

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    default: return "portable";
  }
}

#if defined(__x86_64__)

// __builtin_cpu_supports reads CPUID and XGETBV, so it also knows whether the system saves the wide registers.
bool isa_supported(Isa isa) {
  if (isa == Isa::kPortable) return true;
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (isa == Isa::kAvx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#else

bool isa_supported(Isa isa) {
  return isa == Isa::kPortable;
}

#endif

Isa best_isa() {
  if (isa_supported(Isa::kAvx512)) return Isa::kAvx512;
  return isa_supported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPortable;
}

}  // namespace quire::cpu
