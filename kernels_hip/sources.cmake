# What libquire_hip.so is made of, from the root: shared with the CUDA backend, then our own. tests/hip_on_nvidia builds
# the same.
set(quire_kernel_sources
  kernels_cuda/attention/generic.cu
  kernels_cuda/attention/kv_write.cu
  kernels_cuda/gemm/generic.cu
  kernels_cuda/gemm/pack.cu
  kernels_cuda/moe/moe.cu
  kernels_cuda/moe/plain.cu
  kernels_cuda/portable/activation.cu
  kernels_cuda/portable/add.cu
  kernels_cuda/portable/clip.cu
  kernels_cuda/portable/copy_blocks.cu
  kernels_cuda/portable/embed.cu
  kernels_cuda/portable/gather.cu
  kernels_cuda/portable/logit_scale.cu
  kernels_cuda/portable/norm.cu
  kernels_cuda/portable/probe.cu
  kernels_cuda/portable/resolve.cu
  kernels_cuda/portable/rope.cu
  kernels_cuda/portable/route.cu
  kernels_cuda/portable/sample.cu
  kernels_hip/attention/decode.hip
  kernels_hip/attention/prefill.hip
  kernels_hip/gemm/grouped.hip
  kernels_hip/gemm/stream_rows.hip
  kernels_hip/gemm/tile.hip)
set(quire_host_sources
  kernels_cuda/backend.cc
  kernels_cuda/memory.cc
  kernels_cuda/module.cc
  kernels_cuda/ops.cc
  kernels_cuda/attention/attention.cc
  kernels_cuda/common/device.cc
  kernels_cuda/gemm/blas.cc
  kernels_cuda/gemm/linear.cc
  kernels_cuda/gemm/normed_linear.cc
  kernels_cuda/gemm/tile_linear.cc
  kernels_hip/attention/fast.cc
  kernels_hip/compat.cc
  kernels_hip/gemm/blas_library.cc
  kernels_hip/moe/tiles.cc
  kernels_hip/topology.cc)
list(TRANSFORM quire_kernel_sources PREPEND ${PROJECT_SOURCE_DIR}/)
list(TRANSFORM quire_host_sources PREPEND ${PROJECT_SOURCE_DIR}/)
