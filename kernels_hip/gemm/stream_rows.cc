// No kernel for few rows: generic_linear() does them.
#include "kernels_cuda/gemm/stream_rows.h"

namespace quire::gpu {

bool stream_rows_fits(const StreamRows&, const Device&) {
  return false;
}

void stream_rows(const StreamRows&, GpuStream&) {
  QUIRE_CHECK(false, "stream_rows() fits nothing");
}

}  // namespace quire::gpu
