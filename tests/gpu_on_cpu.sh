#!/usr/bin/env bash
# Build the CUDA and the HIP backend for the CPU and run the tests of accelerators on them: CUDA as compute capability
# 9.0 and 8.0, HIP with waves of 64 lanes and of 32. Needs neither a GPU nor nvcc nor hipcc. tests/run.sh calls it.
#   bash tests/gpu_on_cpu.sh             all but what is long
#   bash tests/gpu_on_cpu.sh --all       the long ones too: hours
#   bash tests/gpu_on_cpu.sh [--all] DIR with the test programs of another build, build/release/tests/cpp/accelerators say
# GPU_ON_CPU_SEED=7, say, goes other ways, in three times the time (tests/gpu_on_cpu/block.h).
set -euo pipefail
cd "$(dirname "$0")/.."
build=build/gpu_on_cpu

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
    ChainTest.long_contexts_are_shared_out
    ChainTest.widths_that_fill_no_tile_and_no_stage
    '*RanksTest.*_ranks_either'  # both ways, which are run by themselves
  )
fi
programs=${1:-$build/64/tests/cpp/accelerators}
filter=$(IFS=:; echo "-${left_out[*]}")

# build_wave WAVE CUDA TARGETS...
build_wave() {
  mkdir -p "$build"
  cmake -S . -B "$build/$1" -G Ninja "-DQUIRE_CUDA=OFF" "-DQUIRE_CUDA_ON_CPU=$2" -DQUIRE_HIP_ON_CPU=ON "-DQUIRE_HIP_WAVE=$1" \
    -DQUIRE_TESTS=ON -DQUIRE_WERROR=ON > "$build/$1.log" || { tail -n 20 "$build/$1.log"; exit 1; }
  cmake --build "$build/$1" -j "$(nproc)" --target "${@:3}" >> "$build/$1.log" || { tail -n 40 "$build/$1.log"; exit 1; }
}

# run_program MACHINE TEST: MACHINE is cuda90, cuda80, hip64 or hip32
run_program() {
  local machine=$1 number=${1: -2} program=$programs/test_accelerator_$2
  local wave=64 log=$build/$1.$2.log
  [ "$machine" != hip32 ] || wave=32
  QUIRE_BACKEND_PATH=$PWD/$build/$wave/backends QUIRE_NCCL_PATH=$PWD/$build/$wave/collectives \
    QUIRE_RCCL_PATH=$PWD/$build/$wave/collectives GPU_ON_CPU_DEVICES=2 CUDA_ON_CPU_CAPABILITY=$number QUIRE_TEST_DEVICE=${machine%??} \
    "$program" "--gtest_filter=$filter" > "$log" 2>&1 || echo "failed" >> "$log"
}
export -f run_program
export programs build filter

targets=(quire_cuda quire_hip quire_nccl_on_cpu quire_rccl_on_cpu)
[ $# -gt 0 ] || targets+=(tests/cpp/accelerators/all)
build_wave 64 ON "${targets[@]}"
build_wave 32 OFF quire_hip
rm -f "$build"/*.*.log
# The longest first. Before 9.0 some ops have kernels of their own. How ranks meet and tokens are drawn has little to do
# with the size of waves.
for test in attention sample chain roped_decode linear normed_linear moe ranks small_ops backend route; do
  for machine in cuda90 cuda80 hip64 hip32; do
    [[ $machine != cuda80 || "attention linear moe normed_linear roped_decode" = *"$test"* ]] || continue
    [[ $machine != hip* || $test != *chain ]] || continue
    [[ $machine != hip32 || "ranks sample" != *"$test"* ]] || continue
    echo "$machine $test"
  done
done | xargs -P "$(nproc)" -L 1 bash -c 'run_program "$@"' run_program
result=0
for machine in cuda90 cuda80 hip64 hip32; do
  passed=$(cat "$build/$machine".*.log | grep -c '^\[       OK \]') || true
  failed=$(cat "$build/$machine".*.log | grep -cE '^\[  FAILED  \].*ms\)$|^failed$') || true
  echo "$machine: $passed tests passed, $failed failures"
  [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ] || result=1
done
[ $result -eq 0 ] || grep -hE -B20 '^\[  FAILED  \]|GPU on the CPU:' "$build"/*.*.log | tail -n 80
exit $result
