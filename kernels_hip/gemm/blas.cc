// hipBLASLt behind gemm/blas.h, opened at run time. Row-major out[T, N] = x[T, K] * weight[N, K]^T is, column by column
// as the library counts, out[N, T] = weight[K, N]^T * x[K, T].
//
// What we need of its C interface is declared here, so that neither its headers nor the library are needed to build.
// Numbers and layouts are those of ROCm 6.0 (hipBLASLt 0.6) to ROCm 7.2 (1.2), the same in all of them: from
// hipBLASLt's library/include/hipblaslt.h (attributes, epilogues, hipblasLtMatmulAlgo_t,
// hipblasLtMatmulHeuristicResult_t), hipBLAS-common's hipblas-common.h (status, operation, compute type) and HIP's
// library_types.h (hipDataType). ROCm 5 numbered data and compute types in another way.
#include "kernels_cuda/gemm/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>

namespace quire::gpu {
namespace {

using Handle = void*;
using Description = void*;
using Layout = void*;
using Preference = void*;
using Status = int;

constexpr Status kSuccess = 0;                                         // HIPBLAS_STATUS_SUCCESS
constexpr int kRealFloat32 = 0, kRealFloat16 = 2, kRealBFloat16 = 14;  // HIP_R_32F, _16F, _16BF
constexpr int kComputeFloat32 = 2;                                     // HIPBLAS_COMPUTE_32F
constexpr int kTransposed = 112;                                       // HIPBLAS_OP_T
constexpr int kDescriptionTransposeA = 0, kDescriptionEpilogue = 2;    // HIPBLASLT_MATMUL_DESC_...
constexpr int kDescriptionBias = 3, kDescriptionBiasType = 4;          // ..._BIAS_POINTER, _BIAS_DATA_TYPE
constexpr int kEpilogueBias = 4;                                       // HIPBLASLT_EPILOGUE_BIAS
constexpr int kPreferenceWorkspace = 1;                                // HIPBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES

/// hipblasLtMatmulAlgo_t
struct Algorithm {
  uint8_t data[16];
  size_t most_workspace_bytes;
};

/// hipblasLtMatmulHeuristicResult_t
struct Suggestion {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(Algorithm) == 24 && sizeof(Suggestion) == 56);

/// The functions of the library.
struct Library {
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
  Status (*suggest)(Handle, Description, Layout a, Layout b, Layout c, Layout d, Preference, int asked,
                    Suggestion* results, int* found);
  Status (*multiply)(Handle, Description, const void* alpha, const void* a, Layout, const void* b, Layout,
                     const void* beta, const void* c, Layout, void* d, Layout, const Algorithm*, void* workspace,
                     size_t workspace_bytes, vendor::StreamHandle);
};

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool find_all(void* library, Library& found) {
  return find(library, "hipblasLtCreate", found.create) && find(library, "hipblasLtDestroy", found.destroy) &&
         find(library, "hipblasLtMatmulDescCreate", found.create_description) &&
         find(library, "hipblasLtMatmulDescDestroy", found.destroy_description) &&
         find(library, "hipblasLtMatmulDescSetAttribute", found.set_description) &&
         find(library, "hipblasLtMatrixLayoutCreate", found.create_layout) &&
         find(library, "hipblasLtMatrixLayoutDestroy", found.destroy_layout) &&
         find(library, "hipblasLtMatmulPreferenceCreate", found.create_preference) &&
         find(library, "hipblasLtMatmulPreferenceDestroy", found.destroy_preference) &&
         find(library, "hipblasLtMatmulPreferenceSetAttribute", found.set_preference) &&
         find(library, "hipblasLtMatmulAlgoGetHeuristic", found.suggest) &&
         find(library, "hipblasLtMatmul", found.multiply);
}

/// The library of the ROCm that this is built for: another one's would bring a second HIP runtime into the process, to
/// which our streams mean nothing.
#if !defined(HIP_VERSION_MAJOR) || HIP_VERSION_MAJOR == 6
constexpr const char* kFile = "libhipblaslt.so.0";
#elif HIP_VERSION_MAJOR >= 7
constexpr const char* kFile = "libhipblaslt.so.1";
#else
constexpr const char* kFile = nullptr;
#endif

/// From the folder that QUIRE_HIPBLASLT_PATH names, or from where the loader looks.
void* open_library(std::string& why_not) {
  if (kFile == nullptr) {
    why_not =
        "hipBLASLt not used: this is built for HIP 5, expected=libhipblaslt.so.0 of ROCm 6 or libhipblaslt.so.1 of "
        "ROCm 7; build quire with one of them";
    return nullptr;
  }
  const char* const folder = std::getenv("QUIRE_HIPBLASLT_PATH");
  const std::string path = folder != nullptr ? std::string(folder) + "/" + kFile : std::string(kFile);
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* const error = dlerror();
    why_not = detail::join_message("hipBLASLt not found: file=", path,
                                   "; install ROCm's package hipblaslt, or set QUIRE_HIPBLASLT_PATH to its folder: ",
                                   error != nullptr ? error : "");
  }
  return library;
}

int type_of(DType dtype) {
  if (dtype == DType::kFloat32) return kRealFloat32;
  return dtype == DType::kBFloat16 ? kRealBFloat16 : kRealFloat16;
}

/// The library cannot be told how operands are aligned: it may load 16 bytes at once.
bool is_aligned(const BlasProduct& product) {
  return ((reinterpret_cast<uintptr_t>(product.x) | reinterpret_cast<uintptr_t>(product.weight) |
           reinterpret_cast<uintptr_t>(product.out)) &
          15) == 0;
}

/// All that an algorithm may depend on.
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType, bool, bool>;

Shape shape_of(const BlasProduct& product) {
  return {product.rows,           product.n,     product.k,         product.x_stride,
          product.out_stride,     product.dtype, product.out_dtype, product.add_residual,
          product.bias != nullptr};
}

/// A description of one product, for the time of a call.
class Plan {
 public:
  Plan(const Library& library, const BlasProduct& product) : library_(library) {
    const int type = type_of(product.dtype);
    good_ = library.create_description(&description, kComputeFloat32, kRealFloat32) == kSuccess &&
            set(kDescriptionTransposeA, kTransposed) && set_bias(product) &&
            create_layout(&weight, type, product.k, product.n, product.k) &&
            create_layout(&x, type, product.k, product.rows, product.x_stride) &&
            create_layout(&out, type_of(product.out_dtype), product.n, product.rows, product.out_stride);
  }
  ~Plan() {
    for (const Layout layout : {weight, x, out}) {
      if (layout != nullptr) library_.destroy_layout(layout);
    }
    if (description != nullptr) library_.destroy_description(description);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  bool good() const { return good_; }

  Description description = nullptr;
  Layout weight = nullptr, x = nullptr, out = nullptr;

 private:
  template <typename Value>
  bool set(int attribute, Value value) {
    return library_.set_description(description, attribute, &value, sizeof(value)) == kSuccess;
  }

  bool set_bias(const BlasProduct& product) {
    if (product.bias == nullptr) return true;
    return set(kDescriptionEpilogue, kEpilogueBias) && set(kDescriptionBiasType, type_of(product.out_dtype)) &&
           set(kDescriptionBias, product.bias);
  }

  bool create_layout(Layout* layout, int type, int64_t rows, int64_t columns, int64_t leading) const {
    return library_.create_layout(layout, type, static_cast<uint64_t>(rows), static_cast<uint64_t>(columns), leading) ==
           kSuccess;
  }

  const Library& library_;
  bool good_ = false;
};

/// Prompts come in any length; more shapes than a program ever has at once.
constexpr size_t kMaxRemembered = 16384;
constexpr int kMaxSuggestions = 8;

}  // namespace

struct Blas::State {
  /// What has been found for a shape.
  struct Choice {
    bool possible = false;
    Algorithm algorithm{};
  };

  Library library{};
  Handle handle = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  std::mutex mutex;
  std::map<Shape, Choice> choices;

  ~State() {
    if (handle != nullptr) library.destroy(handle);
  }

  int suggest(const Plan& plan, std::array<Suggestion, kMaxSuggestions>& suggestions) {
    Preference preference = nullptr;
    if (library.create_preference(&preference) != kSuccess) return 0;
    const uint64_t bytes = workspace_bytes;
    library.set_preference(preference, kPreferenceWorkspace, &bytes, sizeof(bytes));
    int found = 0;
    const Status status = library.suggest(handle, plan.description, plan.weight, plan.x, plan.out, plan.out, preference,
                                          kMaxSuggestions, suggestions.data(), &found);
    library.destroy_preference(preference);
    return status == kSuccess ? found : 0;
  }

  bool run(const Plan& plan, const BlasProduct& product, const Algorithm& algorithm, vendor::StreamHandle stream) {
    const float one = 1.0f;
    const float beta = product.add_residual ? 1.0f : 0.0f;
    return library.multiply(handle, plan.description, &one, product.weight, plan.weight, product.x, plan.x, &beta,
                            product.out, plan.out, product.out, plan.out, &algorithm, workspace, workspace_bytes,
                            stream) == kSuccess;
  }

  /// The first suggestion that runs; it has been enqueued.
  Choice choose(const Plan& plan, const BlasProduct& product, vendor::StreamHandle stream) {
    std::array<Suggestion, kMaxSuggestions> suggestions{};
    const int found = suggest(plan, suggestions);
    for (int i = 0; i < found; ++i) {
      const Suggestion& suggestion = suggestions[static_cast<size_t>(i)];
      if (suggestion.state != kSuccess || suggestion.workspace_bytes > workspace_bytes) continue;
      if (run(plan, product, suggestion.algorithm, stream)) {
        return {.possible = true, .algorithm = suggestion.algorithm};
      }
    }
    return {};
  }
};

Blas::Blas(std::unique_ptr<State> state) : state_(std::move(state)) {}
Blas::~Blas() = default;

std::unique_ptr<Blas> Blas::open(const Device& device, void* workspace, size_t workspace_bytes, std::string& why_not) {
  why_not.clear();
  // Never closed: kernels of the library may be in graphs that outlive us.
  void* const opened = open_library(why_not);
  if (opened == nullptr) return nullptr;
  auto state = std::make_unique<State>();
  if (!find_all(opened, state->library)) {
    why_not = "hipBLASLt lacks a function that we need";
    return nullptr;
  }
  check(vendor::use_device(device.ordinal), "choosing a device");
  if (const Status status = state->library.create(&state->handle); status != kSuccess) {
    state->handle = nullptr;
    why_not = "hipBLASLt does not start: status=" + std::to_string(status);
    return nullptr;
  }
  state->workspace = workspace;
  state->workspace_bytes = workspace_bytes;
  return std::unique_ptr<Blas>(new Blas(std::move(state)));
}

bool Blas::multiply(const BlasProduct& product, vendor::StreamHandle stream) {
  if (!is_aligned(product)) return false;
  State& state = *state_;
  const std::scoped_lock lock(state.mutex);
  const Shape shape = shape_of(product);
  const auto known = state.choices.find(shape);
  if (known != state.choices.end() && !known->second.possible) return false;
  const Plan plan(state.library, product);
  if (!plan.good()) return false;
  if (known != state.choices.end()) return state.run(plan, product, known->second.algorithm, stream);
  if (state.choices.size() >= kMaxRemembered) state.choices.clear();
  const State::Choice choice = state.choose(plan, product, stream);
  state.choices.emplace(shape, choice);
  return choice.possible;
}

}  // namespace quire::gpu
