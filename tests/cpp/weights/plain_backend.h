#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "gtest/gtest.h"

namespace quire {

/// A backend that computes nothing: its packed linear is a plain float array [groups, N, K], so that a test can look at
/// it.
class PlainBackend : public Backend {
 public:
  class PlainStream : public Stream {
    void synchronize() override {}
  };

  std::string name() const override { return "plain"; }
  const Ops& ops() const override { return ops_; }
  std::unique_ptr<Stream> create_stream() override { return std::make_unique<PlainStream>(); }
  std::unique_ptr<Event> create_event() override { return nullptr; }

  Buffer allocate(size_t bytes, MemoryKind) override {
    return Buffer(std::malloc(bytes), bytes, [](void* data, size_t) { std::free(data); });
  }
  Buffer allocate_host(size_t bytes) override { return allocate(bytes, MemoryKind::kWorkspace); }
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }

  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override {
    copy_to_device(destination, source, bytes, stream);
  }
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override {
    copy_to_host(destination, source, bytes, stream);
  }
  bool runs_behind() const override { return behind; }
  bool records_graphs() const override { return false; }
  void begin_recording(Stream&) override {}
  std::unique_ptr<Graph> end_recording(Stream&) override { return nullptr; }
  DType activation_dtype(DType dtype) const override { return dtype; }

  PackedLinear pack_linear(const LinearSource& source, Stream&) override {
    PackedLinear packed;
    packed.k = source.parts.front().shape[source.transposed ? 0 : 1];
    packed.groups = source.groups;
    for (const Tensor& part : source.parts) packed.n += part.shape[source.transposed ? 1 : 0];
    EXPECT_EQ(packed.n % source.groups, 0);
    packed.n /= source.groups;
    packed.dtype = source.dtype;
    packed.data = allocate(packed.groups * packed.n * packed.k * sizeof(float), MemoryKind::kWeights);
    float* row = static_cast<float*>(packed.data.data());
    for (const Tensor& part : source.parts) {
      // The contract that real backends rely on.
      EXPECT_EQ(reinterpret_cast<uintptr_t>(part.data) % dtype_bytes(part.dtype), 0u);
      EXPECT_EQ(part.dtype, source.parts.front().dtype);
      for (int64_t n = 0; n < part.shape[source.transposed ? 1 : 0]; ++n, row += packed.k) {
        for (int64_t k = 0; k < packed.k; ++k) {
          row[k] = source.transposed ? element(part, k, n) : element(part, n, k);
        }
      }
    }
    return packed;
  }

  int64_t kv_block_bytes(const KvLayer&) const override { return 0; }
  size_t moe_scratch_bytes(const MoeShape&) const override { return 0; }
  size_t sample_scratch_bytes(int64_t, int64_t) const override { return 0; }
  int64_t available_memory() const override { return 0; }
  int64_t total_memory() const override { return 0; }
  int num_threads() const override { return 1; }
  Communicators connect(std::span<Backend* const>) override { return {}; }
  int64_t connection_bytes(int) const override { return 0; }

  static float element(const Tensor& matrix, int64_t row, int64_t column) {
    const int64_t offset = row * matrix.strides[0] + column * matrix.strides[1];
    switch (matrix.dtype) {
      case DType::kBFloat16: return to_float(matrix.as<BFloat16>()[offset]);
      case DType::kFloat16: return to_float(matrix.as<Float16>()[offset]);
      default: return matrix.as<float>()[offset];
    }
  }

  bool behind = false;  ///< pretend to be a GPU

 private:
  Ops ops_;
};

}  // namespace quire
