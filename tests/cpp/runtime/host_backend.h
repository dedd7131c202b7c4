#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "comm/communicator.h"
#include "quire/error.h"

namespace quire {

/// A backend that has memory and counts how often it is asked for some. Its ops do nothing, but for `sample`, which
/// always chooses token 1.
class HostBackend : public Backend {
 public:
  HostBackend() { fill(ops_); }

  std::string name() const override { return "host"; }
  const Ops& ops() const override { return ops_; }
  std::unique_ptr<Stream> create_stream() override { return std::make_unique<HostStream>(); }
  std::unique_ptr<Event> create_event() override { return std::make_unique<HostEvent>(); }
  Buffer allocate(size_t bytes, MemoryKind) override {
    ++num_allocations;
    num_bytes += static_cast<int64_t>(bytes);
    return Buffer(std::malloc(bytes), bytes, [](void* data, size_t) { std::free(data); });
  }
  Buffer allocate_host(size_t bytes) override {
    num_host_bytes += static_cast<int64_t>(bytes);
    return allocate(bytes, MemoryKind::kWorkspace);
  }
  void copy_to_device(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  void copy_to_host(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  void enqueue_to_device(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
    ++num_copies;
    last_source = source;
  }
  void enqueue_to_host(void* destination, const void* source, size_t bytes, Stream&) override {
    std::memcpy(destination, source, bytes);
  }
  bool runs_behind() const override { return behind; }
  bool records_graphs() const override { return records; }
  void begin_recording(Stream&) override {}
  std::unique_ptr<Graph> end_recording(Stream&) override {
    if (recording_fails) throw Error(ErrorKind::kDevice, "[test] this cannot be recorded");
    return std::make_unique<HostGraph>(num_launches);
  }
  DType activation_dtype(DType) const override { return DType::kFloat32; }
  PackedLinear pack_linear(const LinearSource&, Stream&) override { return {}; }
  int64_t kv_block_bytes(const KvLayer& shape) const override {
    return int64_t{shape.block_size} * shape.num_kv_heads * (shape.head_dim + shape.v_head_dim) *
           dtype_bytes(shape.dtype);
  }
  size_t moe_scratch_bytes(const MoeShape& shape) const override { return moe_bytes * shape.num_tokens * shape.top_k; }
  size_t sample_scratch_bytes(int64_t num_rows, int64_t) const override { return 8 * static_cast<size_t>(num_rows); }
  int64_t available_memory() const override { return int64_t{1} << 30; }
  int64_t total_memory() const override { return int64_t{1} << 31; }
  int num_threads() const override { return 1; }
  Communicators connect(std::span<Backend* const>) override { return {}; }
  int64_t connection_bytes(int) const override { return 0; }

  size_t moe_bytes = 0;  ///< per token and expert it goes to
  bool records = false;
  bool recording_fails = false;
  int num_launches = 0;  ///< of graphs
  int num_copies = 0;    ///< enqueued, to the device
  const void* last_source = nullptr;
  int num_allocations = 0;
  int64_t num_bytes = 0;       ///< allocated so far
  int64_t num_host_bytes = 0;  ///< of them, by allocate_host()
  bool behind = false;

 private:
  template <typename... Args>
  static void do_nothing(void (*&... ops)(const Args&, Stream&)) {
    ((ops = [](const Args&, Stream&) {}), ...);
  }
  static void fill(Ops& ops) {
    do_nothing(ops.embed, ops.norm, ops.linear, ops.grouped_linear, ops.rope, ops.kv_write, ops.copy_blocks,
               ops.attention, ops.activation, ops.route, ops.moe, ops.add, ops.clip, ops.gather, ops.logit_scale,
               ops.resolve);
    ops.sample = [](const SampleArgs& args, Stream&) {
      for (int64_t r = 0; r < args.logits.shape[0]; ++r) args.tokens[r] = {.token = 1};
    };
  }

  struct HostStream final : Stream {
    void synchronize() override {}
  };
  struct HostEvent final : Event {
    void record(Stream&) override {}
    void wait() override {}
  };
  struct HostGraph final : Graph {
    explicit HostGraph(int& launches) : num_launches(launches) {}
    void launch(Stream&) override { ++num_launches; }
    int& num_launches;
  };
  Ops ops_;
};

}  // namespace quire
