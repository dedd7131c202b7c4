#!/usr/bin/env bash
# Compile and link the HIP backend for one target of each kind that Debian's hipcc knows (CDNA 2, CDNA 3, RDNA 2),
# warnings being errors, and print what its kernels take; fails if one that must be fast spills. Needs no GPU. Takes two
# minutes on two cores. tests/run.sh calls it.
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/hip_targets
mkdir -p "$build"

missing=()
command -v hipcc > /dev/null || [ -x /opt/rocm/bin/hipcc ] || missing+=(hipcc)
[ -e /usr/include/hip/hip_runtime.h ] || [ -e /opt/rocm/include/hip/hip_runtime.h ] || missing+=(libamdhip64-dev)
if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" > "$build/apt.log"
fi

cmake -S . -B "$build" -G Ninja -DQUIRE_CUDA=OFF -DQUIRE_HIP=ON -DQUIRE_WERROR=ON \
  "-DQUIRE_HIP_ARCHITECTURES=${QUIRE_HIP_ARCHITECTURES:-gfx90a;gfx940;gfx1030}" > "$build/configure.log" ||
  { tail -n 20 "$build/configure.log"; exit 1; }
cmake --build "$build" -j "$(nproc)" --target quire_hip > "$build/build.log" || { tail -n 40 "$build/build.log"; exit 1; }
ls -l "$build/backends/libquire_hip.so"
python3 tests/hip_resources.py "$build/backends/libquire_hip.so"
