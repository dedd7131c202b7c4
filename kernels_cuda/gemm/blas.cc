// Row-major out[T, N] = x[T, K] * weight[N, K]^T is, column by column as the library counts, out[N, T] =
// weight[K, N]^T * x[K, T].
#include "kernels_cuda/gemm/blas.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "kernels_cuda/gemm/blas_library.h"

namespace quire::gpu {
namespace {

using namespace blas;

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, (std::string(kTraits.prefix) + name).c_str()));
  return function != nullptr;
}

bool find_all(void* library, Functions& found) {
  return find(library, "Create", found.create) && find(library, "Destroy", found.destroy) &&
         find(library, "MatmulDescCreate", found.create_description) &&
         find(library, "MatmulDescDestroy", found.destroy_description) &&
         find(library, "MatmulDescSetAttribute", found.set_description) &&
         find(library, "MatrixLayoutCreate", found.create_layout) &&
         find(library, "MatrixLayoutDestroy", found.destroy_layout) &&
         find(library, "MatmulPreferenceCreate", found.create_preference) &&
         find(library, "MatmulPreferenceDestroy", found.destroy_preference) &&
         find(library, "MatmulPreferenceSetAttribute", found.set_preference) &&
         find(library, "MatmulAlgoGetHeuristic", found.suggest) && find(library, "Matmul", found.multiply);
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
  Plan(const Functions& library, const BlasProduct& product) : library_(library) {
    const int type = type_of(product.dtype);
    good_ = library.create_description(&description, kTraits.compute_float32, kRealFloat32) == kSuccess &&
            set(kTraits.description_transpose_a, kTraits.transposed) && set_bias(product) &&
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
    return set(kTraits.description_epilogue, kEpilogueBias) &&
           set(kTraits.description_bias_type, type_of(product.out_dtype)) &&
           set(kTraits.description_bias, product.bias);
  }

  const Functions& library_;
  bool good_ = false;
};

/// Prompts come in any length; more shapes than a program ever has at once.
constexpr size_t kMaxRemembered = 16384;
constexpr int kMaxSuggestions = 8;

/// By how much a suggestion must use the device better than one before it to be taken in its place, where reading the
/// weights is the limit: a step of Llama-3-8B takes 5.32 instead of 5.44 ms so at 64 rows on an H200, whose gate and up
/// product takes 59 instead of 61 us by tiles of 112 rows of the matrix instead of 256. With 256 rows, where the power
/// limits, it takes 9.9 instead of 9.5 ms. With 16 and 32 it took longer than another H200 does with the first, which
/// says little.
constexpr float kBetterUse = 0.1f;
constexpr int64_t kRowsOfBetterUse[] = {33, 64};

/// Blocks go through a product in rounds: the share of the device that they use in all of them.
float use_of(const SuggestionEnd& end) {
  return end.waves > 0.0f ? end.waves / std::ceil(end.waves) : 1.0f;
}

/// What the library suggests, in its order and its layout.
class Suggestions {
 public:
  void* room() { return bytes_.data(); }

  Algorithm algorithm(int i) const { return read<Algorithm>(i, 0, kTraits.algorithm_bytes); }
  SuggestionEnd end(int i) const { return read<SuggestionEnd>(i, kTraits.algorithm_bytes, sizeof(SuggestionEnd)); }

 private:
  template <typename Value>
  Value read(int i, size_t offset, size_t bytes) const {
    const size_t stride = kTraits.algorithm_bytes + sizeof(SuggestionEnd);
    Value value{};
    std::memcpy(&value, bytes_.data() + static_cast<size_t>(i) * stride + offset, bytes);
    return value;
  }

  alignas(Algorithm) std::array<std::byte, kMaxSuggestions * (sizeof(Algorithm) + sizeof(SuggestionEnd))> bytes_{};
};

}  // namespace

struct Blas::State {
  /// What has been found for a shape.
  struct Choice {
    bool possible = false;
    Algorithm algorithm{};
  };

  Functions library{};
  Handle handle = nullptr;
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  std::mutex mutex;
  std::map<Shape, Choice> choices;

  ~State() {
    if (handle != nullptr) library.destroy(handle);
  }

  int suggest(const Plan& plan, uint32_t alignment, Suggestions& suggestions) {
    Preference preference = nullptr;
    if (library.create_preference(&preference) != kSuccess) return 0;
    const uint64_t bytes = workspace_bytes;
    library.set_preference(preference, kPreferenceWorkspace, &bytes, sizeof(bytes));
    if (kTraits.has_more_preferences) {
      const auto reduction = static_cast<uint32_t>(kTraits.reduce_in_float32);
      library.set_preference(preference, kTraits.preference_reduction, &reduction, sizeof(reduction));
      for (int of = kTraits.preference_alignment_a; of <= kTraits.preference_alignment_d; ++of) {
        library.set_preference(preference, of, &alignment, sizeof(alignment));
      }
    }
    int found = 0;
    const Status status = library.suggest(handle, plan.description, plan.weight, plan.x, plan.out, plan.out, preference,
                                          kMaxSuggestions, suggestions.room(), &found);
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

  /// The first suggestion that runs, or one that uses the device better; it has been enqueued.
  Choice choose(const Plan& plan, const BlasProduct& product, vendor::StreamHandle stream) {
    Suggestions suggestions;
    const int found = suggest(plan, alignment_of(product), suggestions);
    const bool may_choose =
        kTraits.counts_rounds && product.rows >= kRowsOfBetterUse[0] && product.rows <= kRowsOfBetterUse[1];
    std::vector<int> order;
    for (int i = 0; i < found; ++i) {
      const SuggestionEnd end = suggestions.end(i);
      if (end.state != kSuccess || end.workspace_bytes > workspace_bytes) continue;
      // Parts of sums in the workspace are joined by another kernel.
      const bool better = !order.empty() && may_choose &&
                          use_of(end) > use_of(suggestions.end(order.front())) + kBetterUse &&
                          end.workspace_bytes <= suggestions.end(order.front()).workspace_bytes;
      order.insert(better ? order.begin() : order.end(), i);
    }
    for (const int i : order) {
      const Algorithm algorithm = suggestions.algorithm(i);
      if (run(plan, product, algorithm, stream)) return {.possible = true, .algorithm = algorithm};
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
    why_not = std::string(vendor::kBlasName) + " lacks a function that we need";
    return nullptr;
  }
  check(vendor::use_device(device.ordinal), "choosing a device");
  if (const Status status = state->library.create(&state->handle); status != kSuccess) {
    state->handle = nullptr;
    why_not = std::string(vendor::kBlasName) + " does not start: status=" + std::to_string(status);
    return nullptr;
  }
  state->workspace = workspace;
  state->workspace_bytes = workspace_bytes;
  why_not.clear();
  return std::unique_ptr<Blas>(new Blas(std::move(state)));
}

bool Blas::multiply(const BlasProduct& product, vendor::StreamHandle stream) {
  // Such a library takes operands to be aligned to what it loads at once.
  if (!kTraits.has_more_preferences && alignment_of(product) < 16) return false;
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
