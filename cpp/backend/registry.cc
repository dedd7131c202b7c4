#include "backend/registry.h"

#include "backend/cpu/backend.h"
#include "backend/cpu/cpu_features.h"
#include "core/check.h"

namespace quire {

std::unique_ptr<Backend> create_backend(const std::string& device, int num_threads) {
  if (device == "auto" || device == "cpu") return std::make_unique<cpu::CpuBackend>(cpu::best_isa(), num_threads);
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (device == "cpu:" + std::string(cpu::isa_name(isa))) return std::make_unique<cpu::CpuBackend>(isa, num_threads);
  }
  throw Error(ErrorKind::kInvalidArgument,
              detail::join_message("[device] unknown device: device=\"", device,
                                   "\", expected=auto, cpu, cpu:portable, cpu:avx2 or cpu:avx512"));
}

}  // namespace quire
