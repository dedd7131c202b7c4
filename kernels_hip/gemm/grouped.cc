// No tiles for groups: generic_grouped_linear() does them.
#include "kernels_cuda/gemm/grouped.h"

namespace quire::gpu {

bool grouped_tiles_fit(const GroupedLinearArgs&, const Device&) {
  return false;
}

void grouped_tiles(const GroupedLinearArgs&, GpuStream&) {
  QUIRE_CHECK(false, "grouped_tiles() fits nothing");
}

}  // namespace quire::gpu
