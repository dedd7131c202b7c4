#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "kernels_cuda/common/vendor.h"

/// The library of matrix products as it is opened at run time: cuBLASLt or hipBLASLt, which have the same functions and
/// number some things in their own ways. Declared here, so that neither their headers nor they are needed to build.
namespace quire::gpu::blas {

using Handle = void*;
using Description = void*;
using Layout = void*;
using Preference = void*;
using Status = int;

// The same for both.
constexpr Status kSuccess = 0;
constexpr int kRealFloat32 = 0, kRealFloat16 = 2, kRealBFloat16 = 14;
constexpr int kEpilogueBias = 4;
constexpr int kPreferenceWorkspace = 1;

/// Room for what either library calls an algorithm; the library itself reads what it has written.
struct Algorithm {
  uint64_t data[8];
};

/// What stands behind an algorithm in a suggestion.
struct SuggestionEnd {
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

struct Functions {
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*create_description)(Description*, int compute_type, int scale_type);
  Status (*destroy_description)(Description);
  Status (*set_description)(Description, int attribute, const void* value, size_t bytes);
  Status (*create_layout)(Layout*, int type, uint64_t rows, uint64_t columns, int64_t leading);
  Status (*destroy_layout)(Layout);
  Status (*create_preference)(Preference*);
  Status (*destroy_preference)(Preference);
  Status (*set_preference)(Preference, int attribute, const void* value, size_t bytes);
  /// `results`: `asked` times an algorithm and a SuggestionEnd.
  Status (*suggest)(Handle, Description, Layout a, Layout b, Layout c, Layout d, Preference, int asked, void* results,
                    int* found);
  Status (*multiply)(Handle, Description, const void* alpha, const void* a, Layout, const void* b, Layout,
                     const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace,
                     size_t workspace_bytes, vendor::StreamHandle);
};

/// What the libraries have each for itself.
struct Traits {
  const char* prefix;      ///< of its functions' names
  size_t algorithm_bytes;  ///< at most sizeof(Algorithm)
  int compute_float32;
  int transposed;
  int description_transpose_a, description_epilogue, description_bias, description_bias_type;
  /// Whether sums of parts of K can be asked to stay float32 until they are added, and the library can be told how
  /// operands are aligned. If not, 16 bytes are what it may load at once.
  bool has_more_preferences;
  int preference_reduction, reduce_in_float32;
  int preference_alignment_a, preference_alignment_d;
  /// Whether suggestions say in how many rounds of blocks they would be computed.
  bool counts_rounds;
};

// In gemm/blas_library.cc of either tree.

extern const Traits kTraits;
/// A handle for dlsym(); null, with the reason in `why_not`, if there is none.
void* open_library(std::string& why_not);

}  // namespace quire::gpu::blas
