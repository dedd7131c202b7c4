// ids[i] = tokens[-1 - ids[i]].token where ids[i] is negative. One block, for the number of ids is known on the device
// only, and is small.
#include "kernels_cuda/common/launch.cuh"
#include "kernels_cuda/ops.h"

namespace quire::gpu {
namespace {

constexpr int kThreads = 512;

__global__ void __launch_bounds__(kThreads)
    resolve_kernel(int32_t* ids, const int32_t* count, const SampledToken* tokens) {
  let_next_start();
  wait_for_previous();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < *count; i += kThreads) {
    const int32_t id = ids[i];
    if (id < 0) ids[i] = tokens[-1 - id].token;
  }
}

}  // namespace

void resolve(const ResolveArgs& args, Stream& stream) {
  launch("resolve", resolve_kernel, 1, kThreads, 0, as_gpu(stream), args.ids, args.count, args.tokens);
}

}  // namespace quire::gpu
