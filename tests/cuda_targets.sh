#!/usr/bin/env bash
# Compile and link the CUDA backend for every GPU generation that this nvcc knows, which tests/run.sh leaves out for its
# length. Needs no GPU. Takes a quarter of an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
cmake -S . -B build/cuda_targets -DQUIRE_CUDA=ON -DQUIRE_CUDA_ARCHITECTURES=all -DQUIRE_WERROR=ON > build/cuda_targets.log
cmake --build build/cuda_targets -j "$(nproc)" --target quire_cuda
cuobjdump --list-elf build/cuda_targets/backends/libquire_cuda.so 2> /dev/null |
  sed -n 's/.*\.\(sm_[0-9a-f]*\)\.cubin/\1/p' | sort | uniq -c || true
ls -l build/cuda_targets/backends/libquire_cuda.so
