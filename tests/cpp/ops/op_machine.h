#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "accelerators/accelerator.h"
#include "backend/cpu/cpu_features.h"
#include "backend/registry.h"

namespace quire::test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// Memory that the ops of every tested backend can read and write: the CPU's, or page-locked memory if there is a GPU.
template <typename T>
struct OpAllocator {
  using value_type = T;
  OpAllocator() = default;
  template <typename U>
  OpAllocator(const OpAllocator<U>&) {}
  T* allocate(size_t count) {
    return accelerator() != nullptr ? SharedAllocator<T>().allocate(count) : std::allocator<T>().allocate(count);
  }
  void deallocate(T* data, size_t count) {
    accelerator() != nullptr ? SharedAllocator<T>().deallocate(data, count)
                             : std::allocator<T>().deallocate(data, count);
  }
  template <typename U>
  bool operator==(const OpAllocator<U>&) const {
    return true;
  }
};

/// What ops take from tests and give them: never a plain vector.
template <typename T>
using OpVector = std::vector<T, OpAllocator<T>>;

/// One of the tested backends, and a stream on it. `num_threads` has no meaning on a GPU.
struct OpMachine {
  OpMachine(const std::string& device, int num_threads)
      : backend(create_backend(device, {.num_threads = num_threads})),
        stream(backend->create_stream()),
        is_cpu(device.starts_with("cpu")) {}

  /// Run an op and wait for it: machine.run(&Ops::add, {.x = x, .out = out}).
  template <typename Args>
  void run(void (*Ops::*op)(const Args&, Stream&), const std::type_identity_t<Args>& args) const {
    (backend->ops().*op)(args, *stream);
    stream->synchronize();
  }

  /// How far a float32 result may be from the definition: a GPU makes sums in other orders.
  double tolerance(double on_cpu) const { return is_cpu ? on_cpu : std::max(on_cpu, 1e-4); }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
  bool is_cpu;
};

/// Every instruction set that this machine has, the portable code included, and QUIRE_TEST_DEVICE ("cuda" or "hip") if
/// it is set.
inline std::vector<std::string> devices_here() {
  std::vector<std::string> devices;
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (cpu::isa_supported(isa)) devices.push_back("cpu:" + std::string(cpu::isa_name(isa)));
  }
  if (const char* const device = std::getenv("QUIRE_TEST_DEVICE")) devices.emplace_back(device);
  return devices;
}

/// "cpu:avx2" as a part of a test's name.
inline std::string test_name(std::string device) {
  std::replace(device.begin(), device.end(), ':', '_');
  return device;
}

/// Tests of every backend. `machine` has three threads, more than the cores of a small machine, and an odd number.
class OpTest : public testing::TestWithParam<std::string> {
 protected:
  OpMachine machine{GetParam(), 3};
};

#define QUIRE_TEST_EVERY_DEVICE(suite)                                                    \
  INSTANTIATE_TEST_SUITE_P(device, suite, testing::ValuesIn(quire::test::devices_here()), \
                           [](const auto& info) { return quire::test::test_name(info.param); })

/// For tests of what only the CPU promises.
#define QUIRE_CPU_ONLY(machine, reason) \
  if (!(machine).is_cpu) GTEST_SKIP() << reason

/// A float tensor in memory of its own: rows may be further apart than they are long, all that is not an element is
/// NaN, and a guard of NaN lies behind the end.
class Floats {
 public:
  Floats(std::initializer_list<int64_t> sizes, int64_t row_gap = 0, float value = kNan) {
    Tensor shape(nullptr, DType::kFloat32, sizes);
    const int64_t row = shape.shape[0] > 0 ? shape.size() / shape.shape[0] : 0;
    storage_.assign(static_cast<size_t>(shape.shape[0] * (row + row_gap) + kGuard), kNan);
    view_ = shape;
    view_.strides[0] = row + row_gap;
    row_ = row;
    for (int64_t i = 0; i < shape.shape[0]; ++i) {
      for (int64_t k = 0; k < row; ++k) at(i, k) = value;
    }
  }

  /// Standard normal times `scale`.
  static Floats random(std::initializer_list<int64_t> sizes, uint32_t seed, int64_t row_gap = 0, float scale = 1.0f) {
    Floats made(sizes, row_gap);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    for (int64_t i = 0; i < made.rows(); ++i) {
      for (int64_t k = 0; k < made.row_; ++k) made.at(i, k) = normal(generator);
    }
    return made;
  }

  Tensor tensor() {
    Tensor view = view_;
    view.data = storage_.data();
    return view;
  }

  int64_t rows() const { return view_.shape[0]; }
  int64_t row_size() const { return row_; }
  float& at(int64_t row, int64_t k) { return storage_[static_cast<size_t>(row * view_.strides[0] + k)]; }
  float at(int64_t row, int64_t k) const { return storage_[static_cast<size_t>(row * view_.strides[0] + k)]; }
  const float* row(int64_t row) const { return storage_.data() + row * view_.strides[0]; }

  /// Whether everything between and behind the rows still is what the constructor put there.
  bool gaps_untouched() const {
    for (size_t i = 0; i < storage_.size(); ++i) {
      const int64_t row = view_.strides[0] > 0 ? static_cast<int64_t>(i) / view_.strides[0] : 0;
      const bool element = row < rows() && static_cast<int64_t>(i) - row * view_.strides[0] < row_;
      if (!element && !std::isnan(storage_[i])) return false;
    }
    return true;
  }

  bool row_equals(int64_t row, const Floats& other, int64_t other_row) const {
    return std::memcmp(this->row(row), other.row(other_row), static_cast<size_t>(row_) * sizeof(float)) == 0;
  }

 private:
  static constexpr int64_t kGuard = 64;
  Tensor view_;
  int64_t row_ = 0;
  OpVector<float> storage_;
};

/// |got - expected| <= tolerance * (1 + |expected|), and NaN only where it is expected.
inline testing::AssertionResult close(float got, double expected, double tolerance) {
  if (std::isnan(expected) ? std::isnan(got) : std::abs(got - expected) <= tolerance * (1.0 + std::abs(expected))) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "got " << got << ", expected " << expected;
}

}  // namespace quire::test
