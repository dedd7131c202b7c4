#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cpu/cpu_features.h"
#include "backend/registry.h"

namespace quire::test {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

/// The CPU backend of one instruction set with some threads, and a stream on it.
struct OpMachine {
  OpMachine(cpu::Isa isa, int num_threads)
      : backend(create_backend("cpu:" + std::string(cpu::isa_name(isa)), num_threads)),
        stream(backend->create_stream()) {}

  const Ops& ops() const { return backend->ops(); }

  std::unique_ptr<Backend> backend;
  std::unique_ptr<Stream> stream;
};

inline std::vector<cpu::Isa> isas_here() {
  std::vector<cpu::Isa> isas;
  for (const cpu::Isa isa : {cpu::Isa::kPortable, cpu::Isa::kAvx2, cpu::Isa::kAvx512}) {
    if (cpu::isa_supported(isa)) isas.push_back(isa);
  }
  return isas;
}

/// Tests of every instruction set that this machine has, the portable code included. `machine` has three threads, more
/// than the cores of a small machine, and an odd number.
class OpTest : public testing::TestWithParam<cpu::Isa> {
 protected:
  OpMachine machine{GetParam(), 3};
};

inline std::string isa_test_name(const testing::TestParamInfo<cpu::Isa>& info) {
  return std::string(cpu::isa_name(info.param));
}

#define QUIRE_TEST_EVERY_ISA(suite) \
  INSTANTIATE_TEST_SUITE_P(isa, suite, testing::ValuesIn(quire::test::isas_here()), quire::test::isa_test_name)

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
  std::vector<float> storage_;
};

/// |got - expected| <= tolerance * (1 + |expected|), and NaN only where it is expected.
inline testing::AssertionResult close(float got, double expected, double tolerance) {
  if (std::isnan(expected) ? std::isnan(got) : std::abs(got - expected) <= tolerance * (1.0 + std::abs(expected))) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "got " << got << ", expected " << expected;
}

}  // namespace quire::test
