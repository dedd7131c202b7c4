#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/dtype.h"
#include "kernels_cuda/common/device.h"

namespace quire::gpu {

/// One product out[T, N] = x[T, K] * weight[N, K]^T (+ bias) (+ residual), float32 sums, rows `*_stride` elements
/// apart.
struct BlasProduct {
  int64_t rows = 0, n = 0, k = 0;
  DType dtype = DType::kBFloat16;  ///< of x and weight: bfloat16 or float16
  DType out_dtype = DType::kFloat32;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const void* weight = nullptr;
  const void* bias = nullptr;  ///< [N] of out's type
  bool add_residual = false;   ///< out is read as well
  void* out = nullptr;
  int64_t out_stride = 0;
};

/// The vendor's library, opened at run time, with the algorithm of every shape remembered.
class Blas {
 public:
  /// Null, with the reason in `why_not`, if the library cannot be found. `workspace`: device memory for its use.
  static std::unique_ptr<Blas> open(const Device& device, void* workspace, size_t workspace_bytes,
                                    std::string& why_not);
  ~Blas();

  /// False if the library has no algorithm for it.
  bool multiply(const BlasProduct& product, vendor::StreamHandle stream);

 private:
  struct State;
  explicit Blas(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace quire::gpu
