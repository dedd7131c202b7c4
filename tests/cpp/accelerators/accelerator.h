#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "backend/registry.h"
#include "core/dtype.h"

/// What the tests of GPU backends share. Memory of a test is page-locked memory of the host, which the device reads and
/// writes at the same address: what an op has written is looked at without a copy, once the stream has been waited for.
namespace quire::test {

/// The first GPU of this machine: QUIRE_TEST_DEVICE ("cuda", "hip") or nothing. Kept for the whole run.
inline Backend* accelerator(bool deterministic = false) {
  static const auto open = [](bool fixed) -> std::unique_ptr<Backend> {
    const char* const name = std::getenv("QUIRE_TEST_DEVICE");
    return name == nullptr ? nullptr : create_backend(name, {.num_threads = 1, .deterministic = fixed});
  };
  static const std::unique_ptr<Backend> fast = open(false);
  if (!deterministic) return fast.get();
  static const std::unique_ptr<Backend> fixed = open(true);
  return fixed.get();
}

/// "cuda", "hip": what its devices are called.
inline std::string accelerator_kind() {
  const std::string name = accelerator()->name();
  return name.substr(0, name.find(':'));
}

#define QUIRE_NEED_ACCELERATOR() \
  if (quire::test::accelerator() == nullptr) GTEST_SKIP() << "QUIRE_TEST_DEVICE is not set: no GPU to test"

template <typename T>
struct SharedAllocator {
  using value_type = T;
  SharedAllocator() = default;
  template <typename U>
  SharedAllocator(const SharedAllocator<U>&) {}
  T* allocate(size_t count) {
    Buffer buffer = accelerator()->allocate_host(sizeof(Buffer) + 64 + count * sizeof(T));
    auto* const start = static_cast<std::byte*>(buffer.data());
    new (start) Buffer(std::move(buffer));
    return reinterpret_cast<T*>(start + 64);
  }
  void deallocate(T* pointer, size_t) {
    auto* const held = reinterpret_cast<Buffer*>(reinterpret_cast<std::byte*>(pointer) - 64);
    Buffer buffer(std::move(*held));
    held->~Buffer();
  }
  template <typename U>
  bool operator==(const SharedAllocator<U>&) const {
    return true;
  }
};
static_assert(sizeof(Buffer) <= 64);

/// A vector that host and device see at the same address.
template <typename T>
using Shared = std::vector<T, SharedAllocator<T>>;

/// An array of one of the activation types, [rows, columns], rows `row_gap` elements further apart than they are long.
/// What is no element, and a guard behind the end, is NaN and must stay so. The first element is 16-byte aligned.
class Numbers {
 public:
  Numbers(DType dtype, int64_t rows, int64_t columns, int64_t row_gap = 0)
      : dtype_(dtype), rows_(rows), columns_(columns), stride_(columns + row_gap) {
    // All bits set is NaN in every type.
    bytes_.assign(static_cast<size_t>((rows * stride_ + kGuard) * dtype_bytes(dtype)), std::byte{0xff});
  }

  /// Normal numbers times `scale`, rounded to the type.
  static Numbers random(DType dtype, int64_t rows, int64_t columns, uint32_t seed, int64_t row_gap = 0,
                        float scale = 1.0f) {
    Numbers made(dtype, rows, columns, row_gap);
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0.0f, scale);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) made.set(r, c, normal(generator));
    }
    return made;
  }

  /// [rows, columns]; heads() of it gives [rows, heads, width].
  Tensor tensor() {
    Tensor view(bytes_.data(), dtype_, {rows_, columns_});
    view.strides[0] = stride_;
    return view;
  }
  Tensor vector() { return Tensor(bytes_.data(), dtype_, {columns_}); }

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }

  float get(int64_t row, int64_t column) const {
    const std::byte* const at = bytes_.data() + (row * stride_ + column) * dtype_bytes(dtype_);
    if (dtype_ == DType::kFloat32) return read<float>(at);
    return dtype_ == DType::kBFloat16 ? to_float(read<BFloat16>(at)) : to_float(read<Float16>(at));
  }

  void set(int64_t row, int64_t column, float value) {
    std::byte* const at = bytes_.data() + (row * stride_ + column) * dtype_bytes(dtype_);
    if (dtype_ == DType::kFloat32) return write(at, value);
    return dtype_ == DType::kBFloat16 ? write(at, to_bfloat16(value)) : write(at, to_float16(value));
  }

  bool row_bits_equal(int64_t row, const Numbers& other, int64_t other_row) const {
    const auto size = static_cast<size_t>(columns_ * dtype_bytes(dtype_));
    return std::memcmp(bytes_.data() + row * stride_ * dtype_bytes(dtype_),
                       other.bytes_.data() + other_row * other.stride_ * dtype_bytes(dtype_), size) == 0;
  }

  /// Whether everything between and behind the rows still is NaN with all bits set.
  bool gaps_untouched() const {
    const int64_t size = dtype_bytes(dtype_);
    for (int64_t i = 0; i < static_cast<int64_t>(bytes_.size()) / size; ++i) {
      if (i / stride_ < rows_ && i % stride_ < columns_) continue;
      for (int64_t b = 0; b < size; ++b) {
        if (bytes_[static_cast<size_t>(i * size + b)] != std::byte{0xff}) return false;
      }
    }
    return true;
  }

 private:
  static constexpr int64_t kGuard = 64;
  template <typename T>
  static T read(const std::byte* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  template <typename T>
  static void write(std::byte* to, T value) {
    std::memcpy(to, &value, sizeof(value));
  }

  DType dtype_;
  int64_t rows_, columns_, stride_;
  Shared<std::byte> bytes_;
};

/// |got - expected| <= tolerance * (1 + |expected|), NaN only where NaN is expected.
inline testing::AssertionResult near(float got, double expected, double tolerance) {
  if (std::isnan(expected) ? std::isnan(got) : std::abs(got - expected) <= tolerance * (1.0 + std::abs(expected))) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure() << "got " << got << ", expected " << expected;
}

/// Half a unit in the last place of 16-bit types, relative to 1, and some for sums made in another order.
inline double rounding_of(DType dtype) {
  if (dtype == DType::kBFloat16) return 6e-3;
  return dtype == DType::kFloat16 ? 1e-3 : 1e-5;
}

}  // namespace quire::test
