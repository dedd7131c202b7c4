// out = act(x), or act(gate) * (up + offset) for x = [gate, up]. Block: a row and a piece of its columns; thread: 16
// bytes of each operand. The function is chosen once per thread. Limited by bandwidth.
#include "kernels_cuda/gemm/activate.cuh"
#include "kernels_cuda/ops.h"
#include "kernels_cuda/portable/rows.cuh"

namespace quire::gpu {
namespace {

/// `kRoughly`: results are rounded to 16 bits, and exact functions would take twice the instructions.
template <Activation kKind, bool kRoughly, int kCount>
__device__ void activate_all(ActivationRule rule, float (&gate)[kCount], const float (&other)[kCount]) {
  rule.kind = kKind;
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    gate[j] = kRoughly ? activate_roughly(rule, gate[j], other[j]) : activate(rule, gate[j], other[j]);
  }
}

template <typename T, int kCount>
__global__ void __launch_bounds__(kRowThreads)
    activation_kernel(const T* x, int64_t x_stride, T* out, int64_t out_stride, int64_t width, ActivationRule rule) {
  let_next_start();
  wait_for_previous();
  const int32_t i = row_element<kCount>();
  if (i >= width) return;
  const T* const place = x + blockIdx.x * x_stride + i;
  float gate[kCount], other[kCount] = {};
  load_floats(place, gate);
  if (rule.gated) load_floats(place + width, other);
  constexpr bool kRoughly = sizeof(T) == 2;
  switch (rule.kind) {
    case Activation::kSilu: activate_all<Activation::kSilu, kRoughly>(rule, gate, other); break;
    case Activation::kGelu: activate_all<Activation::kGelu, kRoughly>(rule, gate, other); break;
    case Activation::kGeluTanh: activate_all<Activation::kGeluTanh, kRoughly>(rule, gate, other); break;
    case Activation::kGeluQuick: activate_all<Activation::kGeluQuick, kRoughly>(rule, gate, other); break;
    case Activation::kRelu: activate_all<Activation::kRelu, kRoughly>(rule, gate, other); break;
    case Activation::kRelu2: activate_all<Activation::kRelu2, kRoughly>(rule, gate, other); break;
  }
  store_floats(out + blockIdx.x * out_stride + i, gate);
}

}  // namespace

void activation(const ActivationArgs& args, Stream& stream) {
  const Tensor& out = args.out;
  if (out.size() == 0) return;
  const int64_t width = out.shape[1];
  with_type(args.x.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kCount = 16 / sizeof(T);
    // The second half of x begins at a vector if out's rows end with one.
    const bool vectors = hold_vectors({args.x, out}, kCount);
    launch("activation", vectors ? activation_kernel<T, kCount> : activation_kernel<T, 1>,
           row_grid(out.shape[0], width, vectors ? kCount : 1), kRowThreads, 0, as_gpu(stream), args.x.as<const T>(),
           args.x.strides[0], out.as<T>(), out.strides[0], width, args.rule);
  });
}

}  // namespace quire::gpu
