// Row-major out[T, N] = x[T, K] * weight[N, K]^T is, column by column as the library counts, out[N, T] =
// weight[K, N]^T * x[K, T]. Types and functions of cublasLt.h that we need are declared here, so that neither its
// headers nor the library are needed to build; numbers are those of CUDA 12 and 13.
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

constexpr Status kSuccess = 0;
constexpr int kRealFloat32 = 0, kRealFloat16 = 2, kRealBFloat16 = 14;
constexpr int kComputeFloat32 = 68;
constexpr int kTransposed = 1;
constexpr int kDescriptionTransposeA = 3, kDescriptionEpilogue = 7, kDescriptionBias = 8, kDescriptionBiasType = 26;
constexpr int kEpilogueBias = 4;
constexpr int kPreferenceWorkspace = 1, kPreferenceReduction = 3, kPreferenceAlignmentA = 5, kPreferenceAlignmentD = 8;

/// Sums of parts of K stay float32 until they are added.
constexpr uint32_t kReduceInFloat32 = 2;

struct Algorithm {
  uint64_t data[8];
};

struct Suggestion {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

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
                     size_t workspace_bytes, cudaStream_t);
};

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

bool find_all(void* library, Library& found) {
  return find(library, "cublasLtCreate", found.create) && find(library, "cublasLtDestroy", found.destroy) &&
         find(library, "cublasLtMatmulDescCreate", found.create_description) &&
         find(library, "cublasLtMatmulDescDestroy", found.destroy_description) &&
         find(library, "cublasLtMatmulDescSetAttribute", found.set_description) &&
         find(library, "cublasLtMatrixLayoutCreate", found.create_layout) &&
         find(library, "cublasLtMatrixLayoutDestroy", found.destroy_layout) &&
         find(library, "cublasLtMatmulPreferenceCreate", found.create_preference) &&
         find(library, "cublasLtMatmulPreferenceDestroy", found.destroy_preference) &&
         find(library, "cublasLtMatmulPreferenceSetAttribute", found.set_preference) &&
         find(library, "cublasLtMatmulAlgoGetHeuristic", found.suggest) &&
         find(library, "cublasLtMatmul", found.multiply);
}

/// From the folder that QUIRE_CUBLASLT_PATH names, or from where the loader looks.
void* open_library(std::string& why_not) {
  const char* const folder = std::getenv("QUIRE_CUBLASLT_PATH");
  for (const char* const name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
    for (const bool in_folder : {true, false}) {
      if (in_folder && folder == nullptr) continue;
      const std::string path = in_folder ? std::string(folder) + "/" + name : std::string(name);
      if (void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
      if (const char* const error = dlerror(); error != nullptr && why_not.empty()) why_not = error;
    }
  }
  why_not = "cuBLASLt not found (set QUIRE_CUBLASLT_PATH to the folder of libcublasLt.so.13): " + why_not;
  return nullptr;
}

int type_of(DType dtype) {
  if (dtype == DType::kFloat32) return kRealFloat32;
  return dtype == DType::kBFloat16 ? kRealBFloat16 : kRealFloat16;
}

/// What all three operands are aligned to, at most 256 bytes.
uint32_t alignment_of(const BlasProduct& product) {
  const auto bits = reinterpret_cast<uintptr_t>(product.x) | reinterpret_cast<uintptr_t>(product.weight) |
                    reinterpret_cast<uintptr_t>(product.out) | 256u;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

/// All that an algorithm may depend on.
using Shape = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, DType, DType, bool, bool, uint32_t>;

Shape shape_of(const BlasProduct& product) {
  return {product.rows,
          product.n,
          product.k,
          product.x_stride,
          product.out_stride,
          product.dtype,
          product.out_dtype,
          product.add_residual,
          product.bias != nullptr,
          alignment_of(product)};
}

/// A description of one product, for the time of a call.
class Plan {
 public:
  Plan(const Library& library, const BlasProduct& product) : library_(library) {
    const int type = type_of(product.dtype);
    good_ = library.create_description(&description, kComputeFloat32, kRealFloat32) == kSuccess &&
            set(kDescriptionTransposeA, kTransposed) && set_bias(product) &&
            library.create_layout(&weight, type, product.k, product.n, product.k) == kSuccess &&
            library.create_layout(&x, type, product.k, product.rows, product.x_stride) == kSuccess &&
            library.create_layout(&out, type_of(product.out_dtype), product.n, product.rows, product.out_stride) ==
                kSuccess;
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

  int suggest(const Plan& plan, uint32_t alignment, std::array<Suggestion, kMaxSuggestions>& suggestions) {
    Preference preference = nullptr;
    if (library.create_preference(&preference) != kSuccess) return 0;
    const uint64_t bytes = workspace_bytes;
    library.set_preference(preference, kPreferenceWorkspace, &bytes, sizeof(bytes));
    library.set_preference(preference, kPreferenceReduction, &kReduceInFloat32, sizeof(kReduceInFloat32));
    for (int attribute = kPreferenceAlignmentA; attribute <= kPreferenceAlignmentD; ++attribute) {
      library.set_preference(preference, attribute, &alignment, sizeof(alignment));
    }
    int found = 0;
    const Status status = library.suggest(handle, plan.description, plan.weight, plan.x, plan.out, plan.out, preference,
                                          kMaxSuggestions, suggestions.data(), &found);
    library.destroy_preference(preference);
    return status == kSuccess ? found : 0;
  }

  bool run(const Plan& plan, const BlasProduct& product, const Algorithm& algorithm, cudaStream_t stream) {
    const float one = 1.0f;
    const float beta = product.add_residual ? 1.0f : 0.0f;
    return library.multiply(handle, plan.description, &one, product.weight, plan.weight, product.x, plan.x, &beta,
                            product.out, plan.out, product.out, plan.out, &algorithm, workspace, workspace_bytes,
                            stream) == kSuccess;
  }

  /// The first suggestion that runs; it has been enqueued.
  Choice choose(const Plan& plan, const BlasProduct& product, cudaStream_t stream) {
    std::array<Suggestion, kMaxSuggestions> suggestions{};
    const int found = suggest(plan, alignment_of(product), suggestions);
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
    why_not = "cuBLASLt lacks a function that we need";
    return nullptr;
  }
  check(cudaSetDevice(device.ordinal), "choosing a device");
  if (const Status status = state->library.create(&state->handle); status != kSuccess) {
    state->handle = nullptr;
    why_not = "cuBLASLt does not start: status=" + std::to_string(status);
    return nullptr;
  }
  state->workspace = workspace;
  state->workspace_bytes = workspace_bytes;
  why_not.clear();
  return std::unique_ptr<Blas>(new Blas(std::move(state)));
}

bool Blas::multiply(const BlasProduct& product, cudaStream_t stream) {
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
