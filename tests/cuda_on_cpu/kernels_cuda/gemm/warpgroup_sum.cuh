// In the place of kernels_cuda/gemm/warpgroup_sum.cuh, which says what this does.
#pragma once

#include "kernels_cuda/gemm/warpgroup.cuh"

namespace quire::gpu {

template <typename T, int kColumns>
struct WeightedSum {
  static void run(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b) {
    const auto pair = [](uint32_t low, uint32_t high) { return uint64_t{high} << 32 | low; };
    const auto& lanes = gpu_on_cpu::bring_together({pair(a[0], a[2]), pair(a[1], a[3])});
    const int lane = gpu_on_cpu::thread_number() % 32;
    const auto* const quad = &lanes[lane / 4 * 4];
    const Sixteen<T> upper = Sixteen<T>::of_quad(quad, 0), lower = Sixteen<T>::of_quad(quad, 1);
    float* const out = d;
    gpu_on_cpu::copy_sometime(
        [=] { multiply_part<kColumns>(out, {upper, lower}, SharedOperand<T>(b), true, lane, true); });
  }
};

}  // namespace quire::gpu
