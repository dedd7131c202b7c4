// How every kernel is launched. A kernel may start while the one before it still runs (programmatic dependent launch):
// each must call wait_for_previous() before it touches anything that an earlier kernel may have written or still reads,
// weights excepted, and should call let_next_start() as early as it can.
#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "kernels_cuda/stream.h"

namespace quire::gpu {

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// Let a kernel have more dynamic shared memory than the 48 KiB of old; once per kernel is enough.
template <typename... Params>
void allow_shared_memory(void (*kernel)(Params...), size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "reserving shared memory");
}

/// `what`: the op, for the message if the launch fails. `cluster`: blocks, one behind the other, that see each other's
/// shared memory (compute capability 9.0); the grid is a multiple of it.
template <typename... Params, typename... Args>
void launch_clusters(const char* what, void (*kernel)(Params...), dim3 grid, int cluster, dim3 block,
                     size_t shared_bytes, const GpuStream& stream, Args&&... args) {
  cudaLaunchAttribute attributes[3]{};
  // All kernels want the same split between shared memory and cache: a multiprocessor must run empty to change it,
  // which would part a kernel from the next one's early start.
  attributes[0].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
  attributes[0].val.sharedMemCarveout = 100;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  attributes[2].id = cudaLaunchAttributeClusterDimension;
  attributes[2].val.clusterDim = {static_cast<unsigned>(cluster), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream.handle();
  config.attrs = attributes;
  config.numAttrs = cluster > 1 ? 3 : stream.device().compute_capability >= 90 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(std::forward<Args>(args))...), what);
}

/// The same without clusters.
template <typename... Params, typename... Args>
void launch(const char* what, void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            const GpuStream& stream, Args&&... args) {
  launch_clusters(what, kernel, grid, 1, block, shared_bytes, stream, std::forward<Args>(args)...);
}

}  // namespace quire::gpu
