#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <limits>

#include "backend/cpu/kernels.h"
#include "backend/cpu/sample_passes.h"
#include "backend/cpu/simd_avx2.h"

#pragma GCC target("avx2,fma,f16c")

namespace quire::cpu::avx2 {
namespace {

#include "backend/cpu/simd_math.inl"
#include "backend/cpu/simd_rows.inl"
// What it needs first.
#include "backend/cpu/sample.inl"

}  // namespace

void sample(const SampleArgs& args, Stream& stream) {
  run_sample(args, stream, {.sum = sum_chunk, .weigh = weigh, .collect = collect, .count_larger = count_larger});
}

}  // namespace quire::cpu::avx2
