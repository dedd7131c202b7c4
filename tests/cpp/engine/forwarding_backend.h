#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "backend/backend.h"
#include "comm/communicator.h"

namespace quire {

/// Does what another backend does; tests change a part of it.
class ForwardingBackend : public Backend {
 public:
  explicit ForwardingBackend(std::unique_ptr<Backend> real) : real_(std::move(real)), ops_(real_->ops()) {}

  std::string name() const override { return real_->name(); }
  const Ops& ops() const override { return ops_; }
  std::unique_ptr<Stream> create_stream() override { return real_->create_stream(); }
  std::unique_ptr<Event> create_event() override { return real_->create_event(); }
  Buffer allocate(size_t bytes, MemoryKind kind) override { return real_->allocate(bytes, kind); }
  Buffer allocate_host(size_t bytes) override { return real_->allocate_host(bytes); }
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override {
    real_->copy_to_device(destination, source, bytes, stream);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override {
    real_->copy_to_host(destination, source, bytes, stream);
  }
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream& stream) override {
    real_->enqueue_to_device(destination, source, bytes, stream);
  }
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream& stream) override {
    real_->enqueue_to_host(destination, source, bytes, stream);
  }
  bool runs_behind() const override { return real_->runs_behind(); }
  bool records_graphs() const override { return real_->records_graphs(); }
  void begin_recording(Stream& stream) override { real_->begin_recording(stream); }
  std::unique_ptr<Graph> end_recording(Stream& stream) override { return real_->end_recording(stream); }
  DType activation_dtype(DType dtype) const override { return real_->activation_dtype(dtype); }
  PackedLinear pack_linear(const LinearSource& source, Stream& stream) override {
    return real_->pack_linear(source, stream);
  }
  int64_t kv_block_bytes(const KvLayer& shape) const override { return real_->kv_block_bytes(shape); }
  size_t moe_scratch_bytes(const MoeShape& shape) const override { return real_->moe_scratch_bytes(shape); }
  size_t sample_scratch_bytes(int64_t num_rows, int64_t vocabulary) const override {
    return real_->sample_scratch_bytes(num_rows, vocabulary);
  }
  int64_t available_memory() const override { return real_->available_memory(); }
  int64_t total_memory() const override { return real_->total_memory(); }
  int num_threads() const override { return real_->num_threads(); }
  Communicators connect(std::span<Backend* const> ranks) override { return real_->connect(ranks); }
  int64_t connection_bytes(int num_ranks) const override { return real_->connection_bytes(num_ranks); }

 protected:
  std::unique_ptr<Backend> real_;
  Ops ops_;
};

}  // namespace quire
