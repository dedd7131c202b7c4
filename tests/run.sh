#!/usr/bin/env bash
# Install what the tests need and run all of them: C++ and Python, sanitizers and lints.
#   bash tests/run.sh                everything, some 30 minutes on two cores
#   bash tests/run.sh cpp python     only these steps: lint cpp sanitize embed python
# Works in build/ of this repository and changes nothing outside it, but for the Debian packages that are missing.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
build=$root/build
venv=$build/venv
jobs=$(nproc)
export PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$build"

say() { printf "\n== %s (%s s)\n" "$1" "$SECONDS"; }

debian_packages() {
  local missing=() browser=()
  command -v g++ > /dev/null || missing+=(g++)
  [ -e /usr/include/gtest/gtest.h ] || missing+=(libgtest-dev)
  python3 -c 'import venv, ensurepip' 2> /dev/null || missing+=(python3-venv)
  [ -e "$(python3 -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h" ] || missing+=(python3-dev)
  # What the Python tests look at the server's page with: a download of 110 MB. They skip that part where there is none.
  [[ " ${steps[*]} " != *" python "* ]] || command -v chromium > /dev/null || browser=(chromium fonts-dejavu-core)
  [ $((${#missing[@]} + ${#browser[@]})) -eq 0 ] && return
  local as_root=()
  [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq || [ ${#missing[@]} -eq 0 ]
  [ ${#missing[@]} -eq 0 ] || "${as_root[@]}" apt-get install -y -qq "${missing[@]}" > "$build/apt.log"
  # Ubuntu has it as a snap only.
  [ ${#browser[@]} -eq 0 ] || "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${browser[@]}" >> "$build/apt.log" 2>&1 ||
    echo "no chromium to be had: the tests of the page in a browser will be skipped"
}

install() {
  say "install what the tests need"
  debian_packages
  [ -x "$venv/bin/python" ] || python3 -m venv "$venv"
  # The oldest CMake that will do, so that nothing newer is asked for by mistake.
  "$venv/bin/pip" install -q cmake==3.25.2 ninja clang-format==19.1.7
  export PATH=$venv/bin:$PATH
}

lint() {
  say "lint"
  python tests/lint/layers.py
  python tests/lint/sizes.py
  git ls-files '*.h' '*.cc' '*.inl' '*.cu' '*.cuh' '*.hip' | xargs clang-format --dry-run --Werror
  pip install -q ruff mypy fastapi uvicorn  # the latter two for their types
  ruff check pyapi tests
  ruff format --check pyapi tests
  mypy
}

# configure_and_test NAME CTEST_ARGUMENTS... -- CMAKE_ARGUMENTS...; TARGETS: what to build, if not all
configure_and_test() {
  local name=$1 ctest_arguments=()
  shift
  while [ "$1" != -- ]; do ctest_arguments+=("$1"); shift; done
  shift
  cmake -S . -B "$build/$name" -G Ninja -DQUIRE_TESTS=ON -DQUIRE_WERROR=ON "$@" > "$build/$name.log"
  cmake --build "$build/$name" -j "$jobs" --target ${TARGETS:-all} >> "$build/$name.log" || { tail -n 40 "$build/$name.log"; exit 1; }
  ctest --test-dir "$build/$name" --output-on-failure -j "$jobs" "${ctest_arguments[@]}" > "$build/$name.ctest.log" ||
    { tail -n 60 "$build/$name.ctest.log"; exit 1; }
  tail -n 4 "$build/$name.ctest.log"
}

cpp() {
  say "C++ tests"
  # The CUDA backend is compiled and linked where there is nvcc, for one generation; tests/cuda_targets.sh takes all.
  configure_and_test release -- -DQUIRE_BENCH=ON -DQUIRE_CUDA_ARCHITECTURES=90a
  # What ptxas says by the way only: such products wait for each other, one by one.
  ! grep "wgmma.mma_async instructions are serialized" "$build/release.log" || exit 1
  say "the HIP backend, compiled for AMD"
  tests/hip_targets.sh > "$build/hip_targets.out" || { cat "$build/hip_targets.out"; exit 1; }
  tail -n 3 "$build/hip_targets.out"
  say "the CUDA and HIP backends on the CPU"
  tests/gpu_on_cpu.sh "$build/release/tests/cpp/accelerators"
}

sanitize() {
  say "C++ tests, address and undefined-behaviour sanitizers"
  QUIRE_RANDOM_OPERATIONS=1000000 configure_and_test asan -- -DQUIRE_CUDA=OFF -DQUIRE_SANITIZE=address,undefined -DCMAKE_BUILD_TYPE=RelWithDebInfo
  say "C++ tests of what has threads, thread sanitizer"
  TARGETS="test_comm test_thread_pool test_engine" configure_and_test tsan \
    -R 'ThreadPool|Engine|OutputQueue|Swapping|SharedMemory|TensorParallel|RankFailure' -- \
    -DQUIRE_CUDA=OFF -DQUIRE_SANITIZE=thread -DCMAKE_BUILD_TYPE=RelWithDebInfo
}

embed() {
  say "a C++ program that embeds the installed library"
  tests/embedding/run.sh "$build/release" pyapi/quire/storyteller 1
}

python_tests() {
  say "Python package"
  pip install -q '.[test]' -C cmake.define.QUIRE_CUDA_ARCHITECTURES=90a
  say "Python tests"
  # From elsewhere, so that the installed package is tested and not the source folder.
  (cd "$build" && python -m pytest "$root/tests/python" "$root/tests/parity" -q -p no:cacheprovider --rootdir "$root/tests")
  local backends=$build/gpu_on_cpu/64/backends
  # From step cpp, and where there are golden checkpoints beside the repository.
  [ -e "$backends/libquire_cuda.so" ] && [ -d "$root/../shared/golden" ] || return 0
  say "some golden checkpoints on the CUDA backend on the CPU"
  # What they have of their own, decoded as users get it, in chains too.
  local families="llama_gqa_bfloat16 or falcon_40b or mixtral or deepseek_v2 or gemma2 or gpt_oss or mpt_clip or bloom or chatglm3 or phi3_longrope or opt_125m"
  (cd "$build" && QUIRE_TEST_DEVICE=cuda QUIRE_BACKEND_PATH=$backends QUIRE_CHAIN=always \
    python -m pytest "$root/tests/parity/test_golden.py" -q -p no:cacheprovider --rootdir "$root/tests" \
    -k "as_users and (float32 or bfloat16-0) and ($families)")
  (cd "$build" && QUIRE_TEST_DEVICE=cuda QUIRE_BACKEND_PATH=$backends GPU_ON_CPU_DEVICES=2 \
    python -m pytest "$root/tests/python/test_tensor_parallel.py" -q -p no:cacheprovider --rootdir "$root/tests" -k "info or command_line or seeds")
}

steps=("$@")
[ $# -gt 0 ] || steps=(lint cpp sanitize embed python)
install
for step in "${steps[@]}"; do
  case $step in
    lint | cpp | sanitize | embed) "$step" ;;
    python) python_tests ;;
    *) echo "run.sh: unknown step '$step': one of lint cpp sanitize embed python" >&2; exit 2 ;;
  esac
done
say "all passed"
