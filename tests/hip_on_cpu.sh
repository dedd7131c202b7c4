#!/usr/bin/env bash
# Build the HIP backend for the CPU, with waves of 32 lanes and of 64, and run the tests of accelerators on it, both at
# once. Needs neither a GPU nor hipcc. tests/run.sh calls it.
#   bash tests/hip_on_cpu.sh             all but what is long, three minutes on two cores
#   bash tests/hip_on_cpu.sh --all       the long ones too: hours
#   bash tests/hip_on_cpu.sh [--all] DIR with the test programs of another build, build/release/tests/cpp/accelerators say
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/hip_on_cpu

# A GPU's memory fault, which there is none of here, and a rank that is waited for beside the host.
left_out=(AcceleratorBackendDeathTest.a_device_that_fails_says_so '*.a_rank_that_never_comes_is_named/*')
if [ "${1:-}" = --all ]; then
  shift
else
  left_out+=(
    # Half an hour or more: long prompts, a model's product 200 times over, 200 000 draws.
    'attention.chunks_of_a_prompt*'
    Linear.gives_the_same_again_and_again
    AcceleratorSample.draws_follow_the_probabilities
    # Half a minute or more; others take the same kernels' shorter ways.
    attention.every_width_gives_the_defined_result
    attention.long_contexts_give_the_defined_result
    Linear.takes_more_rows_and_longer_sums
    '*RanksTest.*_ranks_either'  # which is the library here
  )
fi
programs=${1:-$build/64/tests/cpp/accelerators}

build_wave() {
  local targets=(quire_hip quire_rccl_on_cpu)
  [ $# -eq 1 ] || targets+=("${@:2}")
  mkdir -p "$build"
  cmake -S . -B "$build/$1" -G Ninja -DQUIRE_CUDA=OFF -DQUIRE_HIP_ON_CPU=ON "-DQUIRE_HIP_WAVE=$1" -DQUIRE_TESTS=ON \
    -DQUIRE_WERROR=ON > "$build/$1.log" || { tail -n 20 "$build/$1.log"; exit 1; }
  cmake --build "$build/$1" -j "$(nproc)" --target "${targets[@]}" >> "$build/$1.log" ||
    { tail -n 40 "$build/$1.log"; exit 1; }
}

run_wave() {
  local program filter result=0
  filter=$(IFS=:; echo "-${left_out[*]}")
  for program in "$programs"/test_accelerator_*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    QUIRE_BACKEND_PATH=$PWD/$build/$1/backends QUIRE_RCCL_PATH=$PWD/$build/$1/rccl HIP_ON_CPU_DEVICES=2 \
      QUIRE_TEST_DEVICE=hip "$program" "--gtest_filter=$filter" || result=1
  done > "$build/$1.tests.log" 2>&1
  return $result
}

if [ $# -eq 0 ]; then
  build_wave 64 tests/cpp/accelerators/all
else
  build_wave 64
fi
build_wave 32
run_wave 32 &
first=$!
run_wave 64 &
second=$!
result=0
wait $first || result=1
wait $second || result=1
for wave in 32 64; do
  log=$build/$wave.tests.log
  echo "waves of $wave: $(grep -c '^\[       OK \]' "$log") tests passed, $(grep -c '^\[  FAILED  \].*ms)$' "$log") failed"
done
[ $result -eq 0 ] || grep -hE -B20 '^\[  FAILED  \]|HIP on the CPU:' "$build"/{32,64}.tests.log | tail -n 80
exit $result
