#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "backend/backend.h"

namespace quire {

/// A backend that has memory and nothing else, and counts how often it is asked for some.
class HostBackend final : public Backend {
 public:
  std::string name() const override { return "host"; }
  const Ops& ops() const override { return ops_; }
  std::unique_ptr<Stream> create_stream() override { return std::make_unique<HostStream>(); }
  Buffer allocate(size_t bytes, MemoryKind) override {
    ++num_allocations;
    return Buffer(std::malloc(bytes), bytes, [](void* data, size_t) { std::free(data); });
  }
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  PackedLinear pack_linear(const LinearSource&, Stream&) override { return {}; }
  int64_t kv_block_bytes(DType dtype, int32_t block_size, int32_t num_kv_heads, int32_t head_dim,
                         int32_t v_head_dim) const override {
    return int64_t{block_size} * num_kv_heads * (head_dim + v_head_dim) * dtype_bytes(dtype);
  }
  int64_t available_memory() const override { return int64_t{1} << 30; }
  int num_threads() const override { return 1; }

  int num_allocations = 0;

 private:
  struct HostStream final : Stream {
    void synchronize() override {}
  };
  Ops ops_;
};

}  // namespace quire
